"""Capture of predictions, best effort: a bounded ring, emptied as Arrow batches to PredictionsServed; drops counted."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
from prometheus_client import Counter

from ctloop.events.data import INLINE_LIMIT, PREDICTION_COLUMNS, PredictionsServed
from ctloop.events.envelope import Envelope
from ctloop.events.errors import TransientError
from ctloop_serving.deployments import Deployment
from ctloop_serving.domain.columns import MISSING_TIME
from ctloop_serving.domain.request import Computed, Decoded
from ctloop_serving.domain.schema import InputColumn
from ctloop_serving.kafka_facts import KafkaFacts, of_predictions

log = logging.getLogger(__name__)

RING_ROWS = 100_000
"""Predictions held while Kafka does not take them."""
BATCH_ROWS = 5_000
EVERY_SECONDS = 0.05
MICROS = pa.timestamp("us", "UTC")

CAPTURED = Counter("ctloop_capture_captured_total", "Predictions put on the bus.", ["model"])
DROPPED = Counter("ctloop_capture_dropped_total", "Predictions that were answered and not captured.", ["model"])


@dataclass(slots=True)
class Answered:
    """One answered request."""

    deployment: Deployment
    request: Decoded
    computed: Computed
    ids: list[str]
    served_at: datetime


class Capture:
    """Takes what was answered without waiting; a task ships it."""

    def __init__(self, facts: KafkaFacts, clock: Callable[[], datetime]) -> None:
        self._facts, self._clock = facts, clock
        self._ring: deque[Answered] = deque()
        self._outgoing: deque[tuple[PredictionsServed, Envelope, int]] = deque()
        self._rows = 0
        self._more = asyncio.Event()
        self.dropped = 0
        """Predictions answered and not captured, since the process began."""

    def add(self, answered: Answered) -> None:
        """Remember an answer; when the ring is full it is dropped and counted."""
        if self._rows + answered.request.rows > RING_ROWS:
            self._drop(answered.deployment.stamp.model, answered.request.rows)
            return
        self._rows += answered.request.rows
        self._ring.append(answered)
        self._more.set()

    async def run(self) -> None:
        """Ship, for ever. What could not be sent is tried again, in order and under the same ids."""
        while True:
            await self._more.wait()
            await asyncio.sleep(EVERY_SECONDS)
            self._more.clear()
            await self.ship()

    async def ship(self) -> None:
        """Send all there is, oldest first; returns when it is on the bus. Cancelled, it can be called again."""
        while self._outgoing or self._ring:
            if not self._outgoing:
                self._pack_or_drop(self._next_batch())
            while self._outgoing:
                event, envelope, rows = self._outgoing[0]
                await self._until_said(event, envelope)
                self._outgoing.popleft()
                self._rows -= rows
                CAPTURED.labels(event.model).inc(rows)

    async def drain(self, seconds: float) -> None:
        """Ship what is left at the end of the process; what takes longer is dropped and counted."""
        try:
            async with asyncio.timeout(seconds):
                await self.ship()
        except TimeoutError:
            for event, _, rows in self._outgoing:
                self._drop(event.model, rows)
            for one in self._ring:
                self._drop(one.deployment.stamp.model, one.request.rows)

    def _drop(self, model: str, rows: int) -> None:
        self.dropped += rows
        DROPPED.labels(model).inc(rows)

    def _next_batch(self) -> list[Answered]:
        """The head of the ring, as long as it is one version's and not too large."""
        batch = [self._ring.popleft()]
        rows = batch[0].request.rows
        while (
            self._ring
            and self._ring[0].deployment is batch[0].deployment
            and rows + self._ring[0].request.rows <= BATCH_ROWS
        ):
            batch.append(self._ring.popleft())
            rows += batch[-1].request.rows
        return batch

    def _pack_or_drop(self, batch: Sequence[Answered]) -> None:
        try:
            self._pack(batch)
        except BaseException:  # whatever it was, the ring has its room back
            self._outgoing.clear()
            rows = sum(one.request.rows for one in batch)
            self._rows -= rows
            self._drop(batch[0].deployment.stamp.model, rows)
            raise

    def _pack(self, batch: Sequence[Answered]) -> None:
        """Make the batch facts of at most 900 KiB; a row that is larger alone is dropped and counted."""
        model = batch[0].deployment.stamp.model
        waiting = [to_table(batch)]
        while waiting:
            table = waiting.pop()
            body = _stream(table)
            if len(body) <= INLINE_LIMIT:
                ids, event = table.column("prediction_id"), PredictionsServed(model=model, body=body)
                envelope = of_predictions(event, UUID(ids[0].as_py()), ids[-1].as_py(), self._clock())
                self._outgoing.append((event, envelope, table.num_rows))
            elif table.num_rows == 1:
                self._rows -= 1
                self._drop(model, 1)
            else:
                half = table.num_rows // 2
                waiting += [table.slice(half), table.slice(0, half)]

    async def _until_said(self, event: PredictionsServed, envelope: Envelope) -> None:
        while True:
            try:
                return await self._facts.say(event, envelope)
            except TransientError as error:
                log.info("%s", error, extra={"action": "capture-waits", "model": event.model})
                await asyncio.sleep(1.0)


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def to_table(batch: Sequence[Answered]) -> pa.Table:
    """Answers of one version as PREDICTION_COLUMNS and ``input.<column>``; missing inputs are null."""
    deployment = batch[0].deployment
    stamp, schema = deployment.stamp, deployment.schema
    rows = sum(one.request.rows for one in batch)
    output, label, probabilities = _outputs(batch)
    served = [one.served_at for one in batch for _ in range(one.request.rows)]
    wall = [_micros(at) for at in served]
    known = [time for one in batch for time in one.request.times]
    times = [at if time is None else time for time, at in zip(known, wall, strict=True)]
    columns = {
        "prediction_id": pa.array([id for one in batch for id in one.ids], pa.string()),
        "record_id": pa.array([id for one in batch for id in one.request.record_ids], pa.string()),
        "version": pa.array(np.full(rows, stamp.version, np.int64)),
        "epoch": pa.array(np.full(rows, stamp.epoch, np.int64)),
        "output": output,
        "label": label,
        "probabilities": probabilities,
        "data_time": pa.array(times, pa.int64()).cast(MICROS),
        "served_at": pa.array(wall, pa.int64()).cast(MICROS),
    }
    assert tuple(columns) == PREDICTION_COLUMNS
    for column in schema.inputs:
        found = np.concatenate([one.request.feeds[column.name] for one in batch]).ravel()
        columns[f"input.{column.name}"] = _input(column, found)
    return pa.table(columns)


def _outputs(batch: Sequence[Answered]) -> tuple[pa.Array, pa.Array, pa.Array]:
    values = [one.computed.value for one in batch if one.computed.value is not None]
    if values:
        value = _finite(np.concatenate(values).ravel().astype(np.float64))
        return value, value, pa.nulls(len(value), pa.list_(pa.float64()))
    classes = np.array(batch[0].deployment.schema.classes, object)
    labels = np.concatenate([one.computed.label.ravel() for one in batch if one.computed.label is not None])
    found = [one.computed.probabilities for one in batch if one.computed.probabilities is not None]
    matrix = np.concatenate(found).astype(np.float64)
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(offsets), _finite(matrix.ravel()))
    return _finite(np.ascontiguousarray(matrix[:, -1])), pa.array(classes[labels], pa.string()), lists


def _finite(values: Any) -> pa.Array:
    return pa.array(values, pa.float64(), mask=~np.isfinite(values))


def _input(column: InputColumn, values: Any) -> pa.Array:
    if column.kind == "text":
        return pa.array(values, pa.string(), mask=values == "")
    if column.kind == "time":
        return pa.array(values, pa.int64(), mask=values == MISSING_TIME).cast(MICROS)
    return pa.array(values, pa.float32(), mask=np.isnan(values))


def _micros(time: datetime) -> int:
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
