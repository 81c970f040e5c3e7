"""The HTTP door: records in, DataArrived out, answered only when Kafka has them on all replicas."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Annotated, Any
from uuid import uuid5

from fastapi import APIRouter, Header, Request
from opentelemetry.trace import SpanKind
from pydantic import BaseModel

from ctloop.events.data import DataArrived
from ctloop.events.envelope import ARROW_STREAM, JSON, NDJSON, STRANGERS, Envelope
from ctloop.events.errors import TransientError
from ctloop.platform.delivery import Edge, IdempotencyConflict, traced
from ctloop.platform.http import ProblemResponse
from ctloop.platform.spans import current_traceparent, span
from ctloop_ingestion.backlog import Backlog, Patience
from ctloop_ingestion.domain.bodies import rows_in
from ctloop_ingestion.door_body import Admission, admit, grows_to, read_body, split
from ctloop_ingestion.kafka_door import KafkaDoor
from ctloop_ingestion.store import DoorRequest, IngestionStore

SOURCE = "/ctloop/ingestion/door"
CONTENT_TYPES = {"arrow": ARROW_STREAM, "ndjson": NDJSON, "reference": JSON}
KEY_LIMIT = 255


class Receipt(BaseModel):
    """Where an accepted part of the body is on the bus."""

    id: str
    topic: str
    partition: int
    offset: int


class Accepted(BaseModel):
    """What was accepted; sent again under the same key the answer is the same."""

    dataset: str
    idempotency_key: str
    receipts: list[Receipt]


class DatasetState(BaseModel):
    """How much of a dataset has landed here."""

    dataset: str
    batches: int
    rows: int
    last_landed: datetime | None
    waiting_arrivals: int


class Datasets(BaseModel):
    """Every dataset that can be sent to."""

    items: list[DatasetState]


def create_api(store: IngestionStore, door: KafkaDoor, patience: Patience | None = None) -> Callable[[Edge], APIRouter]:
    """Ingestion's paths."""

    def routes(edge: Edge) -> APIRouter:
        backlog = Backlog(store, edge, door.ends, patience or Patience())
        return _routes(Door(store, door, edge, backlog), store, edge)

    return routes


class Door:
    """One request at the door."""

    def __init__(self, store: IngestionStore, bus: KafkaDoor, edge: Edge, backlog: Backlog) -> None:
        self._store, self._bus, self._edge, self._backlog = store, bus, edge, backlog
        self._admission = Admission()

    async def take(self, dataset: str, request: Request, key: str | None) -> Accepted:
        """Accept a body: admission, then the bytes, then Kafka, then the answer."""
        format, size = admit(request)
        async with self._edge.reading() as connection:
            if not await self._store.known(connection, dataset) or dataset.endswith(".predictions"):
                raise unknown(dataset)
        await self._backlog.check()
        with self._admission.admitted(size):
            body = await read_body(request)
            bodies = await self._split(format, body)
            digest = hashlib.sha256(format.encode() + b"|" + body).hexdigest()
            key = key or digest
            with _send(dataset, len(bodies)):
                receipts = await self._once(dataset, key, digest, self._arrivals(dataset, key, digest, format, bodies))
        return Accepted(
            dataset=dataset, idempotency_key=key, receipts=[Receipt.model_validate(one) for one in receipts]
        )

    async def _split(self, format: str, body: bytes) -> tuple[bytes, ...]:
        """What a body becomes needs room too: compressed, it was announced smaller than it is."""
        with self._admission.admitted(max(0, grows_to(format, body) - len(body))):
            return await asyncio.to_thread(split, format, body)

    async def _once(
        self, dataset: str, key: str, digest: str, arrivals: Sequence[tuple[Envelope, bytes]]
    ) -> list[dict[str, Any]]:
        now = self._edge.clock.now()
        async with self._edge.transaction() as connection:
            known = await self._store.begin_request(connection, dataset, key, digest, now)
        if not known.fresh:
            return _answered(known, key, digest)
        try:
            receipts = await self._bus.send(arrivals)
        except TransientError as error:
            async with self._edge.transaction() as connection:
                await self._store.abandon_request(connection, dataset, key)
            hint = f"send it again with Idempotency-Key: {key}; what has arrived is not taken twice"
            raise ProblemResponse(
                503, "CT5030", "it is not known whether all arrived", hint=hint, retry_after=1
            ) from error
        async with self._edge.transaction() as connection:
            await self._store.end_request(connection, dataset, key, receipts)
        return receipts

    def _arrivals(
        self, dataset: str, key: str, digest: str, format: str, bodies: Sequence[bytes]
    ) -> list[tuple[Envelope, bytes]]:
        """The parts of a request, a microsecond apart per row: order of arrival is the only time some datasets have."""
        now = self._edge.clock.now()
        rows = [rows_in(format, body) for body in bodies[:-1]]
        times = [now + timedelta(microseconds=before) for before in accumulate(rows, initial=0)]
        return [
            (
                Envelope(
                    id=uuid5(STRANGERS, f"{dataset}|{key}|{digest}|{part}"),
                    source=SOURCE,
                    type=DataArrived.type(),
                    subject=dataset,
                    time=time,
                    content_type=CONTENT_TYPES[format],
                    traceparent=current_traceparent(),
                ),
                body,
            )
            for part, (body, time) in enumerate(zip(bodies, times, strict=True))
        ]


def _send(dataset: str, parts: int) -> AbstractContextManager[object]:
    """Where the trace of what came through the door begins, or goes on with that of who sends."""
    told = {"messaging.batch.message_count": parts, "ctloop.dataset.name": dataset}
    topic = DataArrived.topic
    return span(f"send {topic}", kind=SpanKind.PRODUCER, attributes={**traced.messaging("send", topic), **told})


def _answered(known: DoorRequest, key: str, digest: str) -> list[dict[str, Any]]:
    if known.digest != digest:
        raise IdempotencyConflict(key)
    if known.receipts is None:
        hint = "wait for its answer, or send it again: whatever became of the first, nothing is taken twice"
        raise ProblemResponse(409, "CT4090", "a request with this key is being carried out", hint=hint, retry_after=1)
    return known.receipts


def unknown(dataset: str) -> ProblemResponse:
    """404: no model file declares the dataset."""
    return ProblemResponse(
        404, "CT4041", f"dataset {dataset[:100]!r} is not declared by any applied model file", hint="ctloop apply FILE"
    )


def _routes(door: Door, store: IngestionStore, edge: Edge) -> APIRouter:
    router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

    @router.post("/{name}/records", status_code=202)
    async def send(
        name: str, request: Request, idempotency_key: Annotated[str | None, Header(max_length=KEY_LIMIT)] = None
    ) -> Accepted:
        """Send records: NDJSON, an Arrow stream, or the JSON of a reference to an object.

        202 means Kafka has them on all replicas. Rows that break a rule are quarantined with their reason; the others
        go on. Without an Idempotency-Key the body's digest is the key.
        """
        return await door.take(name, request, idempotency_key)

    @router.get("")
    async def datasets() -> Datasets:
        """Every dataset that can be sent to."""
        async with edge.reading() as connection:
            return Datasets.model_validate({"items": await store.datasets(connection)})

    @router.get("/{name}")
    async def dataset(name: str) -> DatasetState:
        """One dataset."""
        async with edge.reading() as connection:
            found = [one for one in await store.datasets(connection) if one["dataset"] == name]
        if not found:
            raise unknown(name)
        return DatasetState.model_validate(found[0])

    _ = send, datasets, dataset
    return router
