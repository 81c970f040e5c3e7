"""Serving's facts straight to Kafka: no database, so their ids are derived and saying one again is harmless."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from ctloop.events.data import PredictionsServed
from ctloop.events.envelope import JSON, Envelope, Event, derived_id
from ctloop.events.errors import TransientError
from ctloop.events.pointer import ChampionPointer

log = logging.getLogger(__name__)

SOURCE = "/ctloop/serving"
SEND_SECONDS = 10.0


def caused_by(pointer: ChampionPointer, event: Event, now: datetime, traceparent: str | None = None) -> Envelope:
    """The envelope of a fact that a move of the champion pointer caused."""
    return Envelope(
        id=derived_id(pointer.event_id, event.type(), event.discriminator),
        source=SOURCE,
        type=event.type(),
        subject=event.subject,
        time=now,
        content_type=event.content_type if isinstance(event, PredictionsServed) else JSON,
        loop_id=pointer.loop_id,
        causation_id=pointer.event_id,
        traceparent=traceparent or pointer.traceparent,
    )


def of_predictions(event: PredictionsServed, first: UUID, last: str, now: datetime) -> Envelope:
    """The envelope of captured predictions: the id follows from the first and the last prediction id."""
    return Envelope(
        id=derived_id(first, event.type(), last),
        source=SOURCE,
        type=event.type(),
        subject=event.subject,
        time=now,
        content_type=event.content_type,
    )


class KafkaFacts:
    """A producer made when first needed, and again after it failed; Kafka down is a TransientError, never an exit."""

    def __init__(self, bootstrap: str, prefix: str, client: str) -> None:
        self._bootstrap, self._prefix, self._client = bootstrap, prefix, client
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> "KafkaFacts":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._drop()

    async def say(self, event: Event, envelope: Envelope) -> None:
        """Put a fact on the bus; returns when it is acknowledged.

        Raises:
            TransientError: it is not, or not known to be; say it again.
        """
        body = event.body if isinstance(event, PredictionsServed) else event.model_dump_json().encode()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                producer = await self._started()
                await producer.send_and_wait(
                    self._prefix + event.topic, body, key=envelope.key, headers=envelope.headers()
                )
        except (KafkaError, TimeoutError, OSError) as error:
            await self._drop()
            raise TransientError(f"kafka: {type(error).__name__}: {error}"[:300]) from error

    async def _started(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    client_id=self._client,
                    acks="all",
                    enable_idempotence=True,
                    compression_type="lz4",
                    max_request_size=1 << 20,
                    request_timeout_ms=15_000,
                )
                try:
                    await producer.start()
                except BaseException:
                    await _end(producer.stop)
                    raise
                self._producer = producer
            return self._producer

    async def _drop(self) -> None:
        """An idempotent producer that failed may hang for ever or deliver late: close it by force."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        if not await _end(producer.stop):
            await _end(producer._sender.close)  # pyright: ignore[reportPrivateUsage]
            await _end(producer.client.close)


async def _end(stop: Callable[[], object]) -> bool:
    """Await a stop for at most 5 s; False when it did not end."""
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(5):
            await stop()  # type: ignore[misc]
        return True
    return False
