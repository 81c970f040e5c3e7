"""What a component is: how it is prepared, started and asked whether it is ready."""

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ctloop.local.keys import Keys

PYTHON = (sys.executable, "-P", "-m")
SMALL = {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Run:
    """One program to start."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Place:
    """Where a component lives."""

    folder: Path
    port: int
    ports: Mapping[str, int]
    keys: Keys
    cache: Path


class Component:
    """One server: started by us, or the user's own and only probed."""

    name: ClassVar[str]
    listens: ClassVar[tuple[str, ...]]
    """Names of its ports."""
    start_seconds: ClassVar[float] = 120
    tries: ClassVar[int] = 3
    stop_signal: ClassVar[int] = signal.SIGTERM
    stop_seconds: ClassVar[float] = 10

    def __init__(self, place: Place, yours: str | None = None) -> None:
        self.place = place
        self.yours = yours

    @property
    def address(self) -> str:
        """What clients are given."""
        raise AssertionError(self.name)

    def prepare(self) -> None:
        """Folders and files; quick, repeatable."""

    def setup(self) -> Run | None:
        """A program to run once before the first start."""
        return None

    def after_setup(self) -> None:
        """What makes the setup count."""

    def run(self) -> Run:
        """The server itself."""
        raise AssertionError(self.name)

    def provision(self) -> Run | None:
        """A program to run once the server is ready, before anybody uses it."""
        return None

    def probe(self) -> None:
        """Return when it is ready, raise OSError when not."""
        raise AssertionError(self.name)

    @property
    def is_provisioned(self) -> bool:
        """Whether provisioning is done for this data."""
        return self.yours is None and self.marker.exists()

    @property
    def marker(self) -> Path:
        """Written when provisioning is done."""
        return self.place.keys.folder.parent / f"{self.name}.provisioned"

    def provisioned(self) -> None:
        """Remember it."""
        if self.yours is None:
            self.marker.touch()
