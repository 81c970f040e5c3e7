"""The way from the HTTP door to the bus: DataArrived produced straight to Kafka, acknowledged by all replicas."""

import asyncio
from collections.abc import Sequence
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from ctloop.events.data import DataArrived
from ctloop.events.envelope import Envelope
from ctloop.events.errors import TransientError
from ctloop.platform.delivery.producer import close_by_force, open_producer

SEND_SECONDS = 10.0


class KafkaDoor:
    """A producer of its own, opened with the first request: a broker that is away delays nobody's start."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self._bootstrap = bootstrap
        self._topic = prefix + DataArrived.topic
        self._producer: AIOKafkaProducer | None = None
        self.ends: dict[int, int] = {}
        """The end of each partition as of the newest receipt, whoever else produces to it."""
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close()

    async def send(self, arrivals: Sequence[tuple[Envelope, bytes]]) -> list[dict[str, Any]]:
        """Produce in order; the receipts, once all replicas have them.

        Raises:
            TransientError: the outcome is unknown; sent again under the same ids it does no harm.
        """
        try:
            async with asyncio.timeout(SEND_SECONDS):
                producer = await self._open()
                acks = [
                    await producer.send(self._topic, body, key=envelope.key, headers=envelope.headers())
                    for envelope, body in arrivals
                ]
                written = await asyncio.gather(*acks)
        except (KafkaError, TimeoutError, OSError) as error:
            await self._close()
            raise TransientError(f"Kafka did not acknowledge: {error!r}") from error
        for at in written:
            self.ends[at.partition] = max(at.offset + 1, self.ends.get(at.partition, 0))
        return [
            {"id": str(envelope.id), "topic": at.topic, "partition": at.partition, "offset": at.offset}
            for (envelope, _), at in zip(arrivals, written, strict=True)
        ]

    async def _open(self) -> AIOKafkaProducer:
        async with self._opening:
            if self._producer is None:
                self._producer = await open_producer(self._bootstrap)
            return self._producer

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await close_by_force(producer)
