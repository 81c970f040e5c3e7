"""The outbox relay: what a transaction said is sent at least once, in order per key, and deleted when acknowledged."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from opentelemetry.trace import Span

from ctloop.platform.delivery import traced
from ctloop.platform.delivery.liveness import Liveness
from ctloop.platform.delivery.producer import close_by_force, open_producer
from ctloop.platform.spans import mark_failed
from ctloop.platform.testing.failpoints import failpoint

log = logging.getLogger("ctloop.relay")
BATCH = 500
POLL_SECONDS = 1.0  # each commit wakes it; this is for a wake-up lost with its connection
SEND_SECONDS = 10.0
LOCK_RETRY_SECONDS = 0.1
OWNER_SILENT_SECONDS = 15
"""PostgreSQL ends the session of a frozen owner, whether it asks nothing, has asked half, or reads no answer: another may
relay. A round is silent while it sends."""


class Relay:
    """One relay works per schema, by an advisory lock on its own connection; another process's stands by."""

    def __init__(self, bootstrap: str, connect: Callable[[], Any], channel: str, lock: str, liveness: Liveness) -> None:
        self._bootstrap, self._connect, self._channel, self._lock = bootstrap, connect, channel, lock
        self._liveness = liveness
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._producer: AIOKafkaProducer | None = None

    async def run(self) -> None:
        """Relay until stopped; a lost database or broker is tried again for ever."""
        while not self._stopping.is_set():
            try:
                await self._own_and_relay()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, KafkaError) as error:
                log.warning("relay starts again: %s", error, extra={"action": "relay-restart"})
                await self._discard_producer()
                self._liveness.stamp("relay")
                await asyncio.sleep(0.3)
        await self._discard_producer()
        self._liveness.forget("relay")

    def stop(self) -> None:
        """Finish the round and end."""
        self._stopping.set()
        self._wake.set()

    async def _own_and_relay(self) -> None:
        connection: Any = await self._connect()
        try:
            for limit in ("idle_session_timeout", "transaction_timeout", "tcp_user_timeout"):
                await connection.execute(f"SET {limit} = '{OWNER_SILENT_SECONDS}s'")
            await connection.add_listener(self._channel, lambda *_: self._wake.set())
            while not await connection.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", self._lock):
                self._liveness.stamp("relay")
                if await self._idle(LOCK_RETRY_SECONDS):
                    return
            while True:
                self._liveness.stamp("relay")
                sent = await self._round(connection)
                if sent < BATCH and await self._idle(POLL_SECONDS):
                    return
        finally:
            with contextlib.suppress(Exception):
                await connection.close(timeout=1)

    async def _idle(self, seconds: float) -> bool:
        """Wait for a wake-up; True when it is time to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()
        return self._stopping.is_set()

    async def _round(self, connection: Any) -> int:
        rows = await connection.fetch(
            "SELECT seq, topic, key, headers, payload FROM outbox ORDER BY seq LIMIT $1", BATCH
        )
        if not rows:
            return 0
        outcomes = await self._send(rows)
        acked = acked_prefix([(row["topic"], row["key"], row["seq"]) for row in rows], outcomes)
        failpoint("relay.sent")
        if acked:
            await connection.execute("DELETE FROM outbox WHERE seq = ANY($1::bigint[])", acked)
        failpoint("relay.deleted")
        failed = [one for one in outcomes if isinstance(one, BaseException)]
        if failed:
            log.warning("not sent, tried again: %r", failed[0], extra={"action": "relay-send"})
            await self._discard_producer()
        return len(acked)

    async def _send(self, rows: Sequence[Any]) -> list[object]:
        """Send in seq order; for each row what Kafka said of it, or the failure that kept it from being sent."""
        if self._producer is None:
            self._producer = await open_producer(self._bootstrap)
        sent: list[asyncio.Future[Any]] = []
        sends: list[Span] = []
        try:
            async with asyncio.timeout(SEND_SECONDS):
                for row in rows:
                    said = [(name, value.encode("latin-1")) for name, value in orjson.loads(row["headers"])]
                    send, headers = traced.sending(row["topic"], row["key"], said)
                    sends.append(send)
                    sent.append(
                        await self._producer.send(row["topic"], row["payload"], key=row["key"], headers=headers)
                    )
                await asyncio.wait(sent)
        except (KafkaError, TimeoutError) as error:
            outcomes = [outcome_of(one, error) for one in sent] + [error] * (len(rows) - len(sent))
        else:
            outcomes = [outcome_of(one) for one in sent]
        for send, outcome in zip(sends, outcomes, strict=False):  # fewer where sending stopped
            if isinstance(outcome, BaseException):
                mark_failed(outcome, send)
            send.end()
        return outcomes

    async def _discard_producer(self) -> None:
        if self._producer is not None:
            await close_by_force(self._producer)
            self._producer = None


def outcome_of(sent: asyncio.Future[Any], otherwise: BaseException | None = None) -> object:
    """None when Kafka has acknowledged it, else what is wrong."""
    if not sent.done() or sent.cancelled():
        return otherwise or TimeoutError("not acknowledged in time")
    return sent.exception()


def acked_prefix(rows: Sequence[tuple[str, bytes, int]], outcomes: Sequence[object]) -> list[int]:
    """The seqs that may be deleted: per topic and key, all before the first that failed.

    >>> acked_prefix([("t", b"a", 1), ("t", b"b", 2), ("t", b"a", 3)], [OSError(), None, None])
    [2]
    """
    blocked: set[tuple[str, bytes]] = set()
    done: list[int] = []
    for (topic, key, seq), outcome in zip(rows, outcomes, strict=True):
        if isinstance(outcome, BaseException) or (topic, key) in blocked:
            blocked.add((topic, key))
        else:
            done.append(seq)
    return done
