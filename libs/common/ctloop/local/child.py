"""One supervised process: started, asked until it is ready, watched, started again when it ends, stopped."""

import asyncio
import contextlib
import os
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from ctloop.local import processes
from ctloop.local.components.component import Run
from ctloop.local.state import ProcessStatus
from ctloop.problems import Problem

BACKOFF_SECONDS = (0.0, 0.3, 1.0, 2.0, 5.0, 10.0)
STEADY_SECONDS = 30.0
"""After this long the next end counts as the first."""
WATCH_SECONDS = 5.0
STUCK_CHECKS = 3
LOG_BYTES = 10_000_000


@dataclass(frozen=True)
class Plan:
    """What the supervisor must know of a process."""

    name: str
    kind: Literal["component", "service"]
    probe: Callable[[], None]
    """Blocking; raises OSError while it is not ready."""
    run: Callable[[], Run] | None = None
    """None: the user's own, never started."""
    prepare: Callable[[], None] = lambda: None
    setup: Callable[[], Run | None] = lambda: None
    after_setup: Callable[[], None] = lambda: None
    provision: Callable[[], Run | None] = lambda: None
    after_provision: Callable[[], None] = lambda: None
    alive: Callable[[], None] | None = None
    """Asked when the probe fails: raises OSError when the process is stuck and must be started anew."""
    start_seconds: float = 120.0
    tries: int = 3
    """How often it may end before it was ever ready."""
    stop_signal: int = signal.SIGTERM
    stop_seconds: float = 25.0
    port: int | None = None
    url: str = ""


class Child:
    """The life of one process. All methods run on the supervisor's loop, which is the main thread's."""

    def __init__(self, plan: Plan, log: Path, changed: Callable[[], None]) -> None:
        self.plan = plan
        self.log = log
        self.ready = asyncio.Event()
        self.status = ProcessStatus(name=plan.name, kind=plan.kind, port=plan.port, url=plan.url)
        self._changed = changed
        self._process: Process | None = None

    def _set(self, **values: Any) -> None:
        self.status = self.status.model_copy(update=values)
        self._changed()

    async def keep(self) -> None:
        """Run it for ever.

        Raises:
            Problem: CT9104 or a part's own, it never became ready.
        """
        if self.plan.run is None:
            await self._first_start(self._answers_in_time)
            self._set(state="yours")
            self.ready.set()
            await self._watch_forever()
        await self._first_start(self._set_up)
        failures = 0
        while True:
            began = time.monotonic()
            ended = await self._live(began)
            failures = 1 if time.monotonic() - began > STEADY_SECONDS else failures + 1
            if not self.ready.is_set() and failures >= self.plan.tries:
                raise self.failure(f"ended with exit code {ended}, {failures} times")
            pause = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1]
            self._set(state="backoff", pid=None, started=None, restarts=self.status.restarts + 1)
            await asyncio.sleep(pause)

    async def _first_start(self, action: Callable[[], Any]) -> None:
        self._set(state="starting")
        try:
            await action()
        except OSError as error:
            raise self.failure(f"{type(error).__name__}: {error}") from error

    async def _set_up(self) -> None:
        await asyncio.to_thread(self.plan.prepare)
        setup = await asyncio.to_thread(self.plan.setup)
        if setup is not None:
            await self._once(setup, "its preparation")
            await asyncio.to_thread(self.plan.after_setup)

    async def _provision(self) -> None:
        provision = self.plan.provision()
        if provision is not None:
            await self._once(provision, "filling it for the first time")
            self.plan.after_provision()

    async def _once(self, run: Run, what: str) -> None:
        process = await self.spawn(run)
        try:
            code = await asyncio.wait_for(process.wait(), self.plan.start_seconds)
        except TimeoutError:
            processes.kill_group(process.pid)
            raise self.failure(f"{what} took longer than {self.plan.start_seconds:.0f} s") from None
        if code != 0:
            raise self.failure(f"{what} ended with exit code {code}")

    async def spawn(self, run: Run) -> Process:
        """Start a program in a group of its own that ends with the supervisor, its output in the log."""
        with self.open_log() as log:
            return await asyncio.create_subprocess_exec(
                *run.argv,
                env={**os.environ, **run.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=processes.die_with_parent(),
            )

    def open_log(self) -> IO[bytes]:
        """Append; a log that became long is put aside, one is kept."""
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
        return self.log.open("ab")

    def _set_identity(self, process: Process) -> None:
        identity = processes.identify(process.pid)
        self._set(pid=process.pid, started=identity.started if identity else None)

    async def _live(self, began: float) -> int:
        """One life: from its start to its end; gives the exit code."""
        assert self.plan.run is not None
        run = await asyncio.to_thread(self.plan.run)
        process = self._process = await self.spawn(run)
        self._set_identity(process)
        self._set(state="starting")
        ended = asyncio.create_task(process.wait())
        watch = asyncio.create_task(self._watch(began))
        try:
            await asyncio.wait((ended, watch), return_when=asyncio.FIRST_COMPLETED)
            if watch.done() and not ended.done():
                watch.result()  # raises what the watch found
            return await ended
        finally:
            watch.cancel()
            if ended.done():
                processes.kill_group(process.pid)  # what it started goes with it

    async def _watch(self, began: float) -> None:
        await self._becomes_ready(began)
        if not self.ready.is_set():
            await self._provision()
        self._set(state="ready", seconds_to_ready=round(time.monotonic() - began, 2), message="")
        self.ready.set()
        await self._watch_forever()

    async def _becomes_ready(self, began: float) -> None:
        while (reason := await self._reason(self.plan.probe)) is not None:
            if time.monotonic() - began > self.plan.start_seconds:
                if not self.ready.is_set():
                    raise self.failure(f"was not ready after {self.plan.start_seconds:.0f} s ({reason})")
                self._end_stuck()
            await asyncio.sleep(0.1)

    async def _answers_in_time(self) -> None:
        """For the user's own: it should be there already."""
        deadline = time.monotonic() + 10
        while (reason := await self._reason(self.plan.probe)) is not None:
            if time.monotonic() > deadline:
                raise Problem("CT9105", f"{self.plan.name} at {self.plan.url or self.plan.port}: {reason}")
            await asyncio.sleep(0.3)
        await self._provision()

    async def _watch_forever(self) -> None:
        stuck = 0
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            reason = await self._reason(self.plan.probe)
            state = "not-ready" if reason else "yours" if self.plan.run is None else "ready"
            if state != self.status.state:
                self._set(state=state, message=reason or "")
            is_stuck = reason is not None and self.plan.alive is not None and await self._reason(self.plan.alive)
            stuck = stuck + 1 if is_stuck else 0
            if stuck >= STUCK_CHECKS:
                self._end_stuck()

    def _end_stuck(self) -> None:
        if self._process is not None:
            processes.kill_group(self._process.pid)

    async def _reason(self, question: Callable[[], None]) -> str | None:
        try:
            await asyncio.to_thread(question)
        except OSError as error:
            return str(error) or type(error).__name__
        return None

    async def stop(self) -> None:
        """Ask it to end, insist when it does not; nothing of its group stays."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(self.plan.stop_signal)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(process.wait()), self.plan.stop_seconds)
        processes.kill_group(process.pid)
        await process.wait()
        self._set(state="stopped", pid=None, started=None)

    def failure(self, reason: str) -> Problem:
        """Which, why, and what to do."""
        self._set(state="failed", message=reason)
        last = tail(self.log)
        cause = f"{self.plan.name}: {reason}" + (f"; it last said: {last}" if last else "")
        return Problem("CT9104", cause, f"Read {self.log}, then ctloop up again.")


def tail(log: Path, lines: int = 3, width: int = 300) -> str:
    """The last lines of a log, on one line."""
    try:
        with log.open("rb") as body:
            body.seek(max(0, log.stat().st_size - 4000))
            text = body.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    last = [line.strip()[:width] for line in text.splitlines() if line.strip()][-lines:]
    return " | ".join(last)
