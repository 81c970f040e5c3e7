"""The edge of a service: every handler runs here, in one transaction with what it says."""

import asyncio
import hashlib
import json
import logging
from collections import Counter as CountOf
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4, uuid5

import asyncpg
from prometheus_client import Counter

from ctloop.events.envelope import STRANGERS, Envelope, Event
from ctloop.platform.delivery import traced
from ctloop.platform.delivery.clock import Clock
from ctloop.platform.delivery.hears import Command, Hears, IdempotencyConflict, InFlight, Said
from ctloop.platform.delivery.records import Arrival
from ctloop.platform.delivery.work import COMMAND_TYPE, Work, said, save_outbox
from ctloop.platform.jobs.queue import JobQueue
from ctloop.platform.spans import span

log = logging.getLogger("ctloop.edge")
FACTS_SAID = Counter("ctloop_events_said", "Facts said, by topic.", ["service", "topic"])
ACQUIRE_SECONDS = 3.0
HANDLER_SECONDS = 30.0
"""What the handlers of one transaction may take: they touch PostgreSQL only; anything long is a job."""


class HandlerMisbehaved(RuntimeError):
    """A handler did to its loop what no handler may: a bug, of which only its own event must suffer."""


class Edge:
    """Runs handlers: begins the transaction, gives the unit of work, writes the outbox, commits."""

    def __init__(
        self,
        service: str,
        hears: Iterable[tuple[Hears, object]],
        *,
        prefix: str = "",
        clock: Clock | None = None,
    ) -> None:
        self.service, self.prefix = service, prefix
        self.clock = clock or Clock()
        self.life = uuid4()
        self.routes: Mapping[type[Any], tuple[Hears, object]] = {one.event: (one, owner) for one, owner in hears}
        self.outbox_channel, self.jobs_channel = f"ctloop_{service}_outbox", f"ctloop_{service}_jobs"
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    def open(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        """Give it the service's pool."""
        self._pool = pool

    @property
    def pool(self) -> "asyncpg.Pool[asyncpg.Record]":
        """The service's pool; there is one once the service has started."""
        assert self._pool is not None, "the service has not started"
        return self._pool

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Any]:
        """A connection inside a transaction."""
        async with self.pool.acquire(timeout=ACQUIRE_SECONDS) as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Any]:
        """A connection for queries of an API."""
        async with self.pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
            yield connection

    async def database_answers(self) -> bool:
        """Whether PostgreSQL works at this moment: tells a lost database from a handler that failed like one."""
        try:
            async with self.reading() as connection:
                return await connection.fetchval("SELECT 1") == 1
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False

    def work(self, connection: Any, cause: Envelope) -> Work:
        """The unit of work for one cause."""
        return Work(connection, cause, self.clock.now(), JobQueue(connection, cause, self.jobs_channel))

    @asynccontextmanager
    async def handling(self) -> AsyncGenerator[None]:
        """Handlers run in here: one that hangs, or leaks a cancellation, must not end the loop it runs in.

        Raises:
            HandlerMisbehaved: it took longer than HANDLER_SECONDS, or raised CancelledError though nobody cancelled.
        """
        budget = asyncio.timeout(HANDLER_SECONDS)
        try:
            async with budget:
                yield
        except TimeoutError as error:
            if budget.expired():
                raise HandlerMisbehaved(f"handlers took longer than {HANDLER_SECONDS:.0f} s") from error
            raise
        except asyncio.CancelledError as error:
            if being_cancelled():
                raise
            raise HandlerMisbehaved("a handler leaked a CancelledError") from error

    async def handle(self, connection: Any, what: Any, cause: Envelope) -> tuple[Said, ...]:
        """Run the handler of one fact, job end, timer or command; nothing is written to the outbox yet."""
        hears, owner = self.routes[type(what)]
        work = self.work(connection, cause)
        returned = await hears.method(owner, what, work)
        return self.dress(returned, work)

    def dress(self, events: Sequence[Event], work: Work) -> tuple[Said, ...]:
        """Returned events with their envelopes."""
        dressed = tuple(said(self.service, work, event) for event in events)
        for one in dressed:
            if one.event.starts_loop:
                traced.decision(one, work.cause, work.now)
        return dressed

    async def save(self, connection: Any, events: Sequence[Said]) -> None:
        """Put what was said into the outbox of this transaction."""
        await save_outbox(connection, events, self.prefix, self.outbox_channel)

    def tell(self, events: Sequence[Said]) -> None:
        """One log line and one count per fact, after the commit."""
        for topic, facts in CountOf(one.event.topic for one in events).items():
            FACTS_SAID.labels(self.service, topic).inc(facts)
        for one in events if log.isEnabledFor(logging.INFO) else ():
            log.info(
                "said %s about %s",
                type(one.event).__name__,
                one.event.subject,
                extra={
                    "action": "said",
                    "topic": one.event.topic,
                    "subject": one.event.subject,
                    "event_id": one.envelope.id,
                    "loopid": one.envelope.loop_id,
                    "traceparent": one.envelope.traceparent,
                },
            )

    async def apply(self, connection: Any, arrivals: Sequence[Arrival]) -> tuple[Said, ...]:
        """The effects of a chunk, one by one, in order."""
        events: list[Said] = []
        for arrival in arrivals:
            assert arrival.envelope is not None
            with traced.fact(self.service, arrival):
                events.extend(await self.handle(connection, arrival.event, arrival.envelope))
        return tuple(events)

    async def execute(self, command: Command, *, key: str | None = None) -> tuple[Said, ...]:
        """Run a command through HEARS in one transaction.

        With an Idempotency-Key the same body again gives what was said the first time.

        Raises:
            Refused: the domain says no. IdempotencyConflict: the key was used with another body. InFlight: it is being
                carried out.
        """
        body = command.model_dump_json()
        digest = hashlib.sha256(f"{type(command).__name__}|{body}".encode()).hexdigest()
        with span(f"command {type(command).__name__}"):
            async with self.transaction() as connection:
                if (
                    key is not None
                    and (before := await self._said_before(connection, command, key, digest)) is not None
                ):
                    return before
                identity = uuid5(STRANGERS, f"{self.service}|{key}|{digest}") if key else await _fresh_id(connection)
                async with self.handling():
                    events = await self.handle(connection, command, self._command_envelope(command, identity))
                await self.save(connection, events)
                if key is not None:
                    await self._remember(connection, command, key, digest, events)
            self.tell(events)
        return events

    def _command_envelope(self, command: Command, identity: UUID) -> Envelope:
        return Envelope(
            id=identity,
            source=f"/ctloop/{self.service}",
            type=f"{COMMAND_TYPE}{type(command).__name__}",
            subject=command.subject,
            time=self.clock.now(),
        )

    async def _said_before(self, connection: Any, command: Command, key: str, digest: str) -> tuple[Said, ...] | None:
        if not await connection.fetchval("SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))", key):
            raise InFlight(key)
        row = await connection.fetchrow("SELECT body_digest, said FROM command_log WHERE key = $1", key)
        if row is None:
            return None
        if row["body_digest"] != digest:
            raise IdempotencyConflict(key)
        says = {event.__name__: event for event in self.routes[type(command)][0].says}
        return tuple(
            Said(says[name].model_validate_json(payload), Envelope.model_validate_json(envelope))
            for name, payload, envelope in json.loads(row["said"])
        )

    async def _remember(self, connection: Any, command: Command, key: str, digest: str, events: Sequence[Said]) -> None:
        kept = [
            (type(one.event).__name__, one.event.model_dump_json(), one.envelope.model_dump_json()) for one in events
        ]
        await connection.execute(
            "INSERT INTO command_log (key, command, body_digest, said) VALUES ($1, $2, $3, $4)",
            key, type(command).__name__, digest, json.dumps(kept),
        )  # fmt: skip


def being_cancelled() -> bool:
    """Whether somebody wants this task to end, whatever else was raised on the way."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _fresh_id(connection: Any) -> UUID:
    return await connection.fetchval("SELECT gen_random_uuid()")
