"""Processes as Linux shows them: who lives, who belongs to whom, how much memory, and dying with one's parent."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Identity:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    started: int
    """Clock ticks after boot."""


@dataclass(frozen=True)
class Row:
    """One line of the process table."""

    pid: int
    state: str
    parent: int
    group: int
    started: int
    cpu_seconds: float


def read_row(pid: int) -> Row | None:
    """The process's line, None when there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    cpu = (int(fields[11]) + int(fields[12])) / TICKS
    return Row(pid, fields[0], int(fields[1]), int(fields[2]), int(fields[19]), cpu)


def table() -> list[Row]:
    """Every process that is not a zombie: those hold nothing any more."""
    rows = (read_row(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdigit())
    return [row for row in rows if row is not None and row.state not in "ZX"]


def identify(pid: int) -> Identity | None:
    """Who has this pid now."""
    row = read_row(pid)
    return None if row is None else Identity(pid, row.started)


def lives(identity: Identity) -> bool:
    """Whether that very process still runs; a zombie does not."""
    row = read_row(identity.pid)
    return row is not None and row.started == identity.started and row.state not in "ZX"


def family(pid: int, rows: Iterable[Row] | None = None) -> list[Row]:
    """The process, all of its group and all below them."""
    everybody = list(table() if rows is None else rows)
    found = {row.pid: row for row in everybody if row.pid == pid or row.group == pid}
    while more := [row for row in everybody if row.parent in found and row.pid not in found]:
        found.update((row.pid, row) for row in more)
    return list(found.values())


def pss_bytes(pid: int) -> int:
    """Proportional memory of one process; 0 where it may not be read."""
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def uptime(identity: Identity) -> float:
    """Seconds since it was started."""
    since_boot = float((PROC / "uptime").read_text().split()[0])
    return round(since_boot - identity.started / TICKS, 1)


def boot_id() -> str:
    """Changes with every boot: pids and start times mean nothing across it."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def kill_group(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal every process of the group; one that is gone is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def kill_family(identity: Identity) -> None:
    """End a process of ours that outlived its supervisor, and all that it started."""
    if lives(identity):
        for row in family(identity.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(row.pid, signal.SIGKILL)
        return
    # Its leader is gone, but a group keeps its number while any member lives (Ray's agents).
    if any(row.group == identity.pid and row.started >= identity.started for row in table()):
        kill_group(identity.pid)


def wait_until(fact: Callable[[], bool], seconds: float, step: float = 0.05) -> bool:
    """Whether the fact came true in time."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(step)
    return True


def die_with_parent(number: int = signal.SIGKILL) -> Callable[[], None]:
    """For ``preexec_fn``: the kernel sends the signal when the thread that started the child ends.

    Start children from the main thread only: a worker thread's end would end them too.
    """
    parent = os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def in_child() -> None:
        prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # `&` in a script leaves it ignored, which children inherit
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return in_child
