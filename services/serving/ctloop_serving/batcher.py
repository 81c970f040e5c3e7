"""Zero-wait micro-batching: the requests of one event-loop tick are one ONNX Runtime call."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctloop_serving.deployments import Deployment
from ctloop_serving.domain.refusals import not_computable
from ctloop_serving.domain.request import Computed, Decoded

MAX_BATCH = 16_384
"""Rows of one call."""
ON_LOOP_SECONDS = 0.003
"""A call that takes longer than this runs in a thread, so that the loop can go on reading requests."""


@dataclass(slots=True)
class Waiting:
    """A request and who waits for its answer."""

    request: Decoded
    answer: "asyncio.Future[Computed]"


@dataclass(slots=True)
class Queue:
    """What waits for one deployment."""

    waiting: list[Waiting] = field(default_factory=list[Waiting])
    busy: bool = False
    """A call is under way in a thread; what comes meanwhile is the next batch."""


class Batcher:
    """Puts requests together by deployment; nobody waits for company."""

    def __init__(self, threads: int = 2) -> None:
        self._queues: dict[Deployment, Queue] = {}
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="onnx")
        self._calls: set[asyncio.Task[None]] = set()

    def submit(self, deployment: Deployment, request: Decoded) -> "asyncio.Future[Computed]":
        """Have a request answered by this deployment, in the call at the end of this tick."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Computed] = loop.create_future()
        queue = self._queues.get(deployment)
        if queue is None:
            queue = self._queues[deployment] = Queue()
        if not queue.waiting and not queue.busy:
            loop.call_soon(self._flush, deployment)
        queue.waiting.append(Waiting(request, answer))
        return answer

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _flush(self, deployment: Deployment) -> None:
        queue = self._queues[deployment]
        batch = _take(queue.waiting)
        if not batch:
            if not queue.waiting:
                del self._queues[deployment]
            return
        rows = sum(one.request.rows for one in batch)
        if rows * deployment.engine.seconds_per_row > ON_LOOP_SECONDS:
            queue.busy = True
            call = asyncio.get_running_loop().create_task(self._call_in_thread(deployment, queue, batch, rows))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            return
        _settle(batch, _answers(deployment, batch, rows))
        if queue.waiting:
            asyncio.get_running_loop().call_soon(self._flush, deployment)
        else:
            del self._queues[deployment]

    async def _call_in_thread(self, deployment: Deployment, queue: Queue, batch: list[Waiting], rows: int) -> None:
        loop = asyncio.get_running_loop()
        answers = await loop.run_in_executor(self._threads, _answers, deployment, batch, rows)
        _settle(batch, answers)
        queue.busy = False
        self._flush(deployment)


def _take(waiting: list[Waiting]) -> list[Waiting]:
    """Up to MAX_BATCH rows from the head of the queue, at least one request; who left no longer counts."""
    batch: list[Waiting] = []
    rows = taken = 0
    for one in waiting:
        if batch and rows + one.request.rows > MAX_BATCH:
            break
        taken += 1
        if not one.answer.done():
            batch.append(one)
            rows += one.request.rows
    del waiting[:taken]
    return batch


def _answers(deployment: Deployment, batch: list[Waiting], rows: int) -> list[Computed | Exception]:
    """The answer of each request; a request the model cannot compute fails alone."""
    try:
        if len(batch) == 1:
            return [deployment.engine.run(batch[0].request.feeds, rows)]
        computed = deployment.engine.run(_together(batch), rows)
    except Exception as error:  # noqa: BLE001 whatever ONNX Runtime raises for these values
        if len(batch) == 1:
            return [not_computable(str(error))]
        return [_answers(deployment, [one], one.request.rows)[0] for one in batch]
    answers: list[Computed | Exception] = []
    start = 0
    for one in batch:
        answers.append(computed.part(start, start + one.request.rows))
        start += one.request.rows
    return answers


def _together(batch: list[Waiting]) -> dict[str, NDArray[Any]]:
    names = batch[0].request.feeds
    return {name: np.concatenate([one.request.feeds[name] for one in batch]) for name in names}


def _settle(batch: list[Waiting], answers: list[Computed | Exception]) -> None:
    for one, answer in zip(batch, answers, strict=True):
        if one.answer.done():
            continue
        if isinstance(answer, Exception):
            one.answer.set_exception(answer)
        else:
            one.answer.set_result(answer)
