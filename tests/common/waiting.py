"""Waiting for a fact on a real stack."""

import time
from collections.abc import Callable
from typing import Any

SECONDS = 150.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition gives something."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come within {SECONDS:.0f} s")
