"""The Kafka producer: acks of all, idempotent, and closable when a broker hangs."""

import asyncio
import contextlib
from typing import Any

from aiokafka import AIOKafkaProducer

STOP_SECONDS = 5.0


async def open_producer(bootstrap: str) -> AIOKafkaProducer:
    """A started producer."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_batch_size=128 * 1024,
        compression_type="lz4",
        request_timeout_ms=15_000,
        retry_backoff_ms=100,
        max_request_size=1 << 20,
    )
    try:
        async with asyncio.timeout(15):
            await producer.start()
    except BaseException:
        await close_by_force(producer)
        raise
    return producer


async def close_by_force(producer: AIOKafkaProducer) -> None:
    """Stop it, by force when it hangs: a producer that is merely dropped lives on and may deliver much later."""
    try:
        await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(producer.stop())), STOP_SECONDS)
    except (Exception, asyncio.CancelledError):  # whatever it is, the sender must not live on
        inner: Any = producer
        with contextlib.suppress(Exception):
            await asyncio.wait_for(inner._sender.close(), 1)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(inner.client.close(), 1)
