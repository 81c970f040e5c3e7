"""The Ray task's handle of the process that runs user code: start, ask with a time limit, kill with its whole group."""

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import ctloop
from ctloop.events.manifest import Manifest
from ctloop.events.training import FailureReason

CHILD = Path(__file__).with_name("user_child.py")
LOG_LINES = 40
LOG_LINE_LIMIT = 500
LOG_TAIL_BYTES = 64 * 1024
FILE_BYTES = 4 << 30
ANSWER_BYTES = 1 << 20
ADDRESS_SPACE_HEADROOM = 4 << 30
"""Libraries map far more than they use; the declared memory comes on top."""
DEFAULT_MEMORY = 8 << 30
LOAD_SECONDS = 120.0
END_SECONDS = 5.0
SAFE_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
"""What a child inherits: no address, no key, no token."""
REASONS: tuple[FailureReason, ...] = get_args(FailureReason)


class UserFailed(Exception):
    """The user's part of a run failed for good: reason, one sentence, and what it wrote last."""

    def __init__(self, reason: FailureReason, message: str, log_tail: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.reason: FailureReason = reason
        self.message = message
        self.log_tail = log_tail


@dataclass(frozen=True)
class Launch:
    """What a child is started with."""

    manifest: Manifest
    bundle: Path
    """Folder of the unpacked bundle."""

    @property
    def memory_bytes(self) -> int:
        return (self.manifest.resources.memory_bytes or DEFAULT_MEMORY) + ADDRESS_SPACE_HEADROOM

    def environment(self, home: Path) -> dict[str, str]:
        """Of the child: nothing that names or opens another process."""
        threads = str(max(1, int(self.manifest.resources.cpus)))
        kept = {name: os.environ[name] for name in SAFE_ENVIRONMENT if name in os.environ}
        counted = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), threads
        )
        return kept | counted | {"HOME": str(home), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


def import_paths() -> list[str]:
    """Where installed packages and ctloop are; with ``-S`` no .pth file adds the services' folders."""
    installed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return [*dict.fromkeys([*installed, str(Path(ctloop.__file__).parents[1])])]


def reason_of(said: object) -> FailureReason:
    """The child's word for what failed, where it is one of ours."""
    for reason in REASONS:
        if reason == said:
            return reason
    return "crashed"


def end_those_at_home(home: Path) -> None:
    """Kill every process that was started with this HOME until none is left: also one that left its session and parents."""
    until = time.monotonic() + END_SECONDS
    while (found := those_at(home)) and time.monotonic() < until:
        for pid in found:
            with contextlib.suppress(OSError):  # it has ended
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def those_at(home: Path) -> list[int]:
    """Processes of ours with this HOME."""
    mark, found = f"HOME={home}".encode(), list[int]()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is not ours
            if mark in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
    return found


class UserProcess:
    """One child for one bundle digest and one way of calling it."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.folder = Path(tempfile.mkdtemp(prefix="ctloop-user-"))
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._to_child = self._from_child = -1
        self._buffer = b""
        self._logged_before = 0

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and import the user's module; a module that raises or hangs fails like the function would."""
        theirs_in, self._to_child = os.pipe()
        self._from_child, theirs_out = os.pipe()
        manifest = self.launch.manifest
        arguments = {
            "record": manifest.record.model_dump(mode="json"),
            "bundle": str(self.launch.bundle),
            "module": manifest.module,
            "function": manifest.function,
            "paths": import_paths(),
            "memory_bytes": self.launch.memory_bytes,
            "file_bytes": FILE_BYTES,
            "requests": theirs_in,
            "answers": theirs_out,
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-S", str(CHILD), json.dumps(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs_in, theirs_out),
                cwd=self.folder,
                env=self.launch.environment(self.folder),
                start_new_session=True,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        self.ask({"op": "load"}, max(LOAD_SECONDS, manifest.time_limit_seconds))

    def begin_run(self) -> None:
        """What was written so far belongs to earlier runs."""
        self._logged_before = self.log.stat().st_size

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            UserFailed: it raised, died, answered nonsense or took longer than ``seconds``; then it is killed.
        """
        with contextlib.suppress(BrokenPipeError):  # it died: the answer says so
            os.write(self._to_child, json.dumps(request).encode() + b"\n")
        try:
            answer = self._answer(time.monotonic() + seconds, seconds)
        except UserFailed:
            self.kill()
            raise
        if not answer.get("ok"):
            raise UserFailed(reason_of(answer.get("reason")), str(answer.get("message"))[:2000], self.tail())
        return answer

    def _answer(self, deadline: float, seconds: float) -> dict[str, Any]:
        with selectors.DefaultSelector() as selector:
            selector.register(self._from_child, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise UserFailed("time-limit", f"the call did not end within {seconds:g} s", self.tail())
                piece = os.read(self._from_child, 65536)
                self._buffer += piece
                if not piece or len(self._buffer) > ANSWER_BYTES:
                    raise self._died()
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise UserFailed("crashed", "its answer is not JSON", self.tail()) from error
        if not isinstance(answer, dict):
            raise UserFailed("crashed", "its answer is not an object", self.tail())
        return answer

    def _died(self) -> UserFailed:
        process = self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process is not None:
                process.wait(2)
        tail = self.tail()
        code = process.returncode if process is not None else None
        memory = any("bad_alloc" in line or "MemoryError" in line for line in tail)
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return UserFailed("out-of-memory" if memory else "crashed", f"the process of the model ended by {how}", tail)

    def tail(self) -> tuple[str, ...]:
        """The last lines it wrote to standard output and error."""
        if not self.log.exists():
            return ()
        with self.log.open("rb") as log:
            log.seek(max(self._logged_before, self.log.stat().st_size - LOG_TAIL_BYTES))
            text = log.read().decode("utf-8", "replace").replace("\x00", "")
        return tuple(line[:LOG_LINE_LIMIT] for line in text.splitlines()[-LOG_LINES:])

    def kill(self) -> None:
        """End it and all its own children by force; asking again needs a new one."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        end_those_at_home(self.folder)
        self._process = None
        for descriptor in (self._to_child, self._from_child):
            os.close(descriptor)

    def restart(self) -> None:
        """Have a living one: a call that failed by force has ended it."""
        if not self.alive:
            self.start()

    def close(self) -> None:
        """End it and remove its files."""
        self.kill()
        for folder in (self.folder, self.launch.bundle):
            shutil.rmtree(folder, ignore_errors=True)
