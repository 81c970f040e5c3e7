"""Whether the loops of a service still turn: a dead or stuck one is seen, and the supervisor restarts the process."""

import os
import time
from collections.abc import Callable

EXIT_UNHEALTHY = 70
"""Exit code that says: start me again (sysexits' EX_SOFTWARE)."""


def leave(reason: str) -> None:
    """End the process at once; nothing uncommitted is kept, nothing committed is lost."""
    os.write(2, f"exit 70: {reason}\n".encode())
    os._exit(EXIT_UNHEALTHY)


class Liveness:
    """Each loop stamps a monotonic time; silence longer than its limit is a finding."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stamps: dict[str, tuple[float, float]] = {}
        self._not_ready: dict[str, str] = {}
        self._failed: dict[str, str] = {}

    def stamp(self, loop: str, limit_seconds: float = 60.0) -> None:
        """The loop turned just now and will again within the limit."""
        self._stamps[loop] = (self._clock(), limit_seconds)
        self._failed.pop(loop, None)

    def failed(self, loop: str, why: str) -> None:
        """The loop ended by a failure; not ready until it turns again."""
        self._failed[loop] = why

    def forget(self, loop: str) -> None:
        """The loop ended as it should."""
        self._stamps.pop(loop, None)
        self._not_ready.pop(loop, None)

    def not_ready(self, part: str, why: str) -> None:
        """The part cannot work now."""
        self._not_ready[part] = why

    def ready(self, part: str) -> None:
        """The part works."""
        self._not_ready.pop(part, None)

    def stuck(self) -> dict[str, str]:
        """Loops that were silent for too long."""
        now = self._clock()
        return {name: f"silent for {now - at:.0f} s" for name, (at, limit) in self._stamps.items() if now - at > limit}

    def unready(self) -> dict[str, str]:
        """Parts that cannot work now, with the reason."""
        return self._not_ready | self._failed
