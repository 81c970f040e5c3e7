"""What a user does with the embedded stack: bring it up, take it down, look at it, kill a part of it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ctloop.local import processes, state
from ctloop.local.environment import SERVICES
from ctloop.local.state import ProcessStatus, Stack, Status
from ctloop.problems import CATALOGUE, Problem

COMPONENTS = ("mlflow", "kafka", "postgres", "s3", "ray")
DOWN_SECONDS = 75
OnProgress = Callable[[ProcessStatus], None]


def data_dir_of(path: Path | str | None = None) -> Path:
    """The data directory: as given, else CTLOOP_DATA, else ``.ctloop`` here."""
    return Path(path or os.environ.get("CTLOOP_DATA") or ".ctloop").absolute()


def up(
    data_dir: Path | str | None = None,
    *,
    services: Sequence[str] = SERVICES,
    components: Sequence[str] = COMPONENTS,
    foreground: bool = False,
    on_progress: OnProgress | None = None,
    tied: bool = False,
) -> Stack:
    """Start the stack and return when all of it is ready; one that runs already is returned as it is.

    Args:
        data_dir: where everything is kept; default CTLOOP_DATA, then ``.ctloop`` in the current folder.
        services: which of our services; () for the servers alone.
        components: which servers.
        foreground: run it in this process until Ctrl-C; returns the stopped stack.
        on_progress: called whenever a process changes its state.
        tied: the stack is stopped when the calling process ends, however it ends.

    Raises:
        Problem: a part could not be fetched, started or reached; what was started is stopped again.
    """
    where = data_dir_of(data_dir)
    known = state.read(where)
    if known is not None and known.is_supervised:
        return known if known.phase == "ready" else _wait(where, None, on_progress)
    _fetch(components)
    if foreground:
        return _in_this_process(where, components, services, on_progress)
    supervisor = _detach(where, components, services, tied=tied)
    try:
        return _wait(where, supervisor, on_progress)
    except BaseException:  # Ctrl-C above all: nothing half-started stays
        supervisor.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            supervisor.wait(DOWN_SECONDS)
        raise


def _fetch(components: Sequence[str]) -> None:
    """Here and not in the supervisor: the user sees the progress."""
    from ctloop.local.settings import local_settings

    settings = local_settings()
    if "kafka" in components and settings.kafka.bootstrap is None:
        from ctloop.local.packages import kafka_jars, show_progress

        kafka_jars(settings.cache, show_progress)


def _in_this_process(
    where: Path, components: Sequence[str], services: Sequence[str], on_progress: OnProgress | None
) -> Stack:
    from ctloop.local.supervisor import supervise

    tell = _Teller(on_progress)
    problem = supervise(where, components, services, tell)
    if problem is not None:
        raise problem
    return state.read(where) or Stack(data_dir=where)


def _detach(where: Path, components: Sequence[str], services: Sequence[str], *, tied: bool) -> subprocess.Popen[bytes]:
    logs = where / "logs"
    where.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    argv = (sys.executable, "-P", "-m", "ctloop.local.supervisor", str(where), ",".join(components), ",".join(services))
    with (logs / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=processes.die_with_parent(signal.SIGTERM) if tied else None,
        )


class _Teller:
    """Tells each change of a process once."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._told: dict[str, tuple[str, int]] = {}

    def __call__(self, stack: Stack) -> None:
        for process in stack.processes:
            news = (process.state, process.restarts)
            if self._on_progress is not None and self._told.get(process.name) != news:
                self._told[process.name] = news
                self._on_progress(process)


def _wait(where: Path, supervisor: subprocess.Popen[bytes] | None, on_progress: OnProgress | None) -> Stack:
    tell = _Teller(on_progress)
    while True:
        ended = supervisor is not None and supervisor.poll() is not None
        stack = state.read(where)
        if stack is not None and (supervisor is None or stack.pid == supervisor.pid or ended):
            tell(stack)
            if stack.phase == "ready" and not ended:
                return stack
            if ended or not stack.is_supervised:
                raise _why(stack)
        elif ended:
            raise Problem("CT9104", f"the supervisor ended; its log is {where / 'logs' / 'supervisor.log'}")
        time.sleep(0.05)


def _why(stack: Stack) -> Problem:
    found = stack.problem
    if found is not None and found.get("code") in CATALOGUE:
        return Problem(found["code"], found["cause"], found["hint"], title=found["title"])
    log = stack.data_dir / "logs" / "supervisor.log"
    return Problem("CT9104", "the supervisor ended before all was ready", f"Read {log}, then ctloop up again.")


def down(data_dir: Path | str | None = None) -> bool:
    """Stop the stack in reverse order and return when nothing of it runs; says whether anything did."""
    stack = state.read(data_dir_of(data_dir))
    if stack is None:
        return False
    supervisor = stack.supervisor
    if supervisor is not None and stack.is_supervised:
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor.pid, signal.SIGTERM)
        if not processes.wait_until(lambda: not processes.lives(supervisor), DOWN_SECONDS):
            with contextlib.suppress(ProcessLookupError):
                os.kill(supervisor.pid, signal.SIGKILL)
        _sweep(state.read(stack.data_dir) or stack)
        return True
    return _sweep(stack)


def _sweep(stack: Stack) -> bool:
    """End what is recorded and still lives: its supervisor was killed."""
    if stack.boot != processes.boot_id():
        return False
    left = [process.identity for process in stack.processes if process.identity is not None]
    found = [identity for identity in left if processes.lives(identity)]
    for identity in left:
        processes.kill_family(identity)
    if left:
        ended = tuple(p.model_copy(update={"state": "stopped", "pid": None, "started": None}) for p in stack.processes)
        state.write(stack.model_copy(update={"phase": "stopped", "pid": None, "started": None, "processes": ended}))
    return bool(found)


def status(data_dir: Path | str | None = None) -> Status:
    """Every process: state, pid, port, memory, restarts, uptime."""
    where = data_dir_of(data_dir)
    stack = state.read(where)
    if stack is None or not stack.is_supervised:
        phase = "stopped" if stack is None or stack.phase != "failed" else "failed"
        problem = stack.problem if stack and phase == "failed" else None
        return Status(running=False, ready=False, phase=phase, data_dir=where, problem=problem)
    rows = processes.table()
    measured = tuple(_measure(process, rows) for process in stack.processes)
    supervisor = processes.pss_bytes(stack.pid or 0)
    return Status(
        running=True,
        ready=stack.phase == "ready" and all(process.is_ready for process in measured),
        phase=stack.phase,
        data_dir=where,
        urls=stack.urls,
        versions=stack.versions,
        processes=measured,
        pss_bytes=supervisor + sum(process.pss_bytes or 0 for process in measured),
        problem=stack.problem,
    )


def _measure(process: ProcessStatus, rows: list[processes.Row]) -> ProcessStatus:
    identity = process.identity
    if identity is None or not processes.lives(identity):
        return process.model_copy(update={"state": "backoff"} if identity else {})
    pss = sum(processes.pss_bytes(row.pid) for row in processes.family(identity.pid, rows))
    return process.model_copy(update={"pss_bytes": pss, "uptime_seconds": processes.uptime(identity)})


def log_path(data_dir: Path | str | None, name: str) -> Path:
    """The log of a process, of ``supervisor`` or of ``migrate``.

    Raises:
        Problem: CT9002, there is none of that name.
    """
    logs = data_dir_of(data_dir) / "logs"
    path = logs / f"{name}.log"
    if not path.exists():
        known = ", ".join(sorted(log.stem for log in logs.glob("*.log"))) or "none yet"
        raise Problem("CT9002", f"no log of {name!r} in {logs}; there are: {known}", "ctloop logs NAME")
    return path


def kill(data_dir: Path | str | None, name: str) -> int:
    """kill -9 of one process, as a crash would; gives its pid. The supervisor starts it again.

    Raises:
        Problem: CT9002, no process of that name runs.
    """
    stack = state.read(data_dir_of(data_dir))
    found = [p.identity for p in (stack.processes if stack else ()) if p.name == name]
    if not found or found[0] is None or not processes.lives(found[0]):
        raise Problem("CT9002", f"no process named {name!r} runs here", "ctloop status shows what does.")
    os.kill(found[0].pid, signal.SIGKILL)
    return found[0].pid
