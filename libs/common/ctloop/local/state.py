"""``stack.json``: what the supervisor last knew; ``up``, ``status``, ``down`` and clients read it."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ctloop.local.keys import write_private
from ctloop.local.processes import Identity, boot_id, lives

FILE = "stack.json"
Phase = Literal["starting", "ready", "failed", "stopping", "stopped"]
ProcessState = Literal["waiting", "starting", "ready", "not-ready", "backoff", "stopped", "failed", "yours"]


class Value(BaseModel):
    """Frozen, and readable by an older version of us."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ProcessStatus(Value):
    """One supervised process."""

    name: str
    kind: Literal["component", "service"]
    state: ProcessState = "waiting"
    pid: int | None = None
    started: int | None = None
    """Clock ticks after boot: tells this process from a later one with its pid."""
    port: int | None = None
    url: str = ""
    restarts: int = 0
    seconds_to_ready: float | None = None
    uptime_seconds: float | None = None
    pss_bytes: int | None = None
    message: str = ""

    @property
    def is_ready(self) -> bool:
        """Answers its probe."""
        return self.state in ("ready", "yours")

    @property
    def identity(self) -> Identity | None:
        """Who it is, None while it is not running."""
        return None if self.pid is None or self.started is None else Identity(self.pid, self.started)


class Stack(Value):
    """All of one data directory's stack."""

    data_dir: Path
    phase: Phase = "stopped"
    pid: int | None = None
    started: int | None = None
    boot: str = ""
    base: int = 0
    ports: dict[str, int] = {}
    urls: dict[str, str] = {}
    files: dict[str, Path] = {}
    """Where the secrets of postgres, s3 and ray are kept."""
    kafka_prefix: str = ""
    s3_bucket: str = "ctloop"
    s3_region: str = "us-east-1"
    versions: dict[str, str] = {}
    processes: tuple[ProcessStatus, ...] = ()
    problem: dict[str, Any] | None = None
    seconds_to_ready: float | None = None

    def process(self, name: str) -> ProcessStatus:
        """One process by name; KeyError when there is none."""
        for process in self.processes:
            if process.name == name:
                return process
        raise KeyError(name)

    @property
    def supervisor(self) -> Identity | None:
        """Who supervises it."""
        return None if self.pid is None or self.started is None else Identity(self.pid, self.started)

    @property
    def is_supervised(self) -> bool:
        """Whether its supervisor runs."""
        return self.supervisor is not None and self.boot == boot_id() and lives(self.supervisor)


class Status(Value):
    """What ``ctloop status`` shows."""

    running: bool
    ready: bool
    phase: Phase
    data_dir: Path
    urls: dict[str, str] = {}
    versions: dict[str, str] = {}
    processes: tuple[ProcessStatus, ...] = ()
    pss_bytes: int = 0
    problem: dict[str, Any] | None = None


def read(data_dir: Path) -> Stack | None:
    """The stack as last written; None where none ever was."""
    try:
        return Stack.model_validate_json((data_dir / FILE).read_bytes())
    except (FileNotFoundError, ValidationError, json.JSONDecodeError):
        return None


def write(stack: Stack) -> None:
    """Keep it, whole or not at all."""
    write_private(stack.data_dir / FILE, stack.model_dump_json(indent=1))
