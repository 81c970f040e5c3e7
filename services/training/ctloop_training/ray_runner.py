"""The service's side of a run: the driver process is started on demand, asked, and replaced when it is gone."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import Self
from uuid import uuid4

from ctloop.events.errors import TransientError
from ctloop.platform.settings import RaySettings
from ctloop_training.run_spec import Failed, Lost, OnProgress, Progress, Reply, Request, RunOrder, Trained, WarmOrder

log = logging.getLogger(__name__)

START_SECONDS = 60.0
RETRY_SECONDS = 1.0
LINE_LIMIT = 4 << 20

Said = Progress | Trained | Failed | Lost


def environment(settings: RaySettings) -> dict[str, str]:
    """Of the driver: loopback, the token, no retries of Ray's own, no usage statistics."""
    ours = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_task_oom_retries": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if settings.token_file is not None:
        ours |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(settings.token_file.resolve())}
    return {**os.environ, **ours}


class RayRunner:
    """Runs orders on Ray. Built closed; Ray may be down when it opens, and at any time after."""

    def __init__(self, settings: RaySettings, data_dir: Path) -> None:
        self._settings = settings
        self._last_order = data_dir / "warm.json"
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()
        self._waiting: dict[str, asyncio.Queue[Said]] = {}
        self._runs = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        if self._last_order.exists():
            with contextlib.suppress(ValueError):  # of an earlier release
                order = WarmOrder.model_validate_json(self._last_order.read_bytes())
                self._spawn(self._warm_until_done(order))
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def run(self, order: RunOrder, on_progress: OnProgress) -> Trained | Failed:
        """Run to the end; progress is passed on as it comes. Cancelling it cancels the task by force.

        Raises:
            TransientError: what it runs on was lost.
        """
        self._runs += 1
        async with contextlib.aclosing(self._ask(order)) as said:
            async for message in said:
                if isinstance(message, Progress):
                    await on_progress(message)
                elif isinstance(message, Lost):
                    raise TransientError(message.message)
                else:
                    return message
        raise TransientError("the Ray task ended without a result")

    async def warm(self, order: WarmOrder) -> None:
        """Have driver, Ray worker and the user's module ready; remembered for the next start.

        Raises:
            TransientError: Ray is not there.
        """
        self._last_order.parent.mkdir(parents=True, exist_ok=True)
        self._last_order.write_text(order.model_dump_json())
        async with contextlib.aclosing(self._ask(order)) as said:
            async for message in said:
                if isinstance(message, Lost):
                    raise TransientError(message.message)
                return

    async def _warm_until_done(self, order: WarmOrder) -> None:
        """After a restart; a run that was taken up again meanwhile warms its own worker, a second would slow it."""
        await self._driver()
        while not self._runs:
            try:
                return await self.warm(order)
            except TransientError:
                await asyncio.sleep(RETRY_SECONDS)

    async def _ask(self, order: RunOrder | WarmOrder) -> AsyncGenerator[Said]:
        process = await self._driver()
        id = str(uuid4())
        warming = isinstance(order, WarmOrder)
        request = Request(op="warm", id=id, warm=order) if warming else Request(op="run", id=id, order=order)
        queue = self._waiting[id] = asyncio.Queue[Said]()
        ended = False
        try:
            await self._write(process, request)
            while not ended:
                message = await queue.get()
                ended = warming or not isinstance(message, Progress)
                yield message
        finally:
            del self._waiting[id]
            if not ended:  # by force, and with it the Ray worker: never after the end
                with contextlib.suppress(TransientError):
                    await self._write(process, Request(op="cancel", id=id))

    async def _write(self, process: asyncio.subprocess.Process, request: Request) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(request.model_dump_json().encode() + b"\n")
            await process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise TransientError("the Ray driver is gone") from error

    async def _driver(self) -> asyncio.subprocess.Process:
        """The living driver; waits for Ray without an attempt being spent."""
        async with self._starting:
            while self._process is None or self._process.returncode is not None:
                try:
                    self._process = await self._start()
                except TransientError as error:
                    log.info("Ray is not reachable yet: %s", error, extra={"action": "ray-wait"})
                    await asyncio.sleep(RETRY_SECONDS)
            return self._process

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "ctloop_training.ray_driver", self._settings.address,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=environment(self._settings), limit=LINE_LIMIT,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                first = await process.stdout.readline()
        except TimeoutError:
            first = b""
        if not first:
            if process.returncode is None:
                process.kill()
            await process.wait()
            raise TransientError(f"no connection to {self._settings.address}")
        self._spawn(self._listen(process))
        return process

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            reply = Reply.model_validate_json(line)
            if (queue := self._waiting.get(reply.id)) is not None:
                queue.put_nowait(reply.message)
        await process.wait()
        for queue in self._waiting.values():
            queue.put_nowait(Lost(message="the Ray driver ended: its head is gone or it was killed"))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
