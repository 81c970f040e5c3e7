"""One chunk of one partition: fence, effects, outbox and offset in one transaction; each record gets its fate."""

import asyncio
import logging
from collections import Counter as CountOf
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import Counter, Histogram

from ctloop.events.errors import NotYetKnown
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.topics import dead_letters
from ctloop.platform.delivery import disposition, traced
from ctloop.platform.delivery.attempts import ProcessKiller
from ctloop.platform.delivery.edge import Edge, being_cancelled
from ctloop.platform.delivery.hears import Heard, Hears, Said
from ctloop.platform.delivery.offsets import Fenced, pass_fence
from ctloop.platform.delivery.records import Arrival, Raw, Record, arrival_of, raw_of
from ctloop.platform.spans import mark_failed
from ctloop.platform.testing.failpoints import failpoint

log = logging.getLogger("ctloop.consume")
CONSUMED = Counter(
    "ctloop_events_consumed", "Records disposed of, by topic and outcome.", ["service", "topic", "outcome"]
)
CHUNK_SECONDS = Histogram(
    "ctloop_chunk_duration_seconds", "One transaction of a chunk, in seconds.", ["service"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
)  # fmt: skip
AGE_SECONDS = Histogram(
    "ctloop_event_age_seconds", "How long the oldest record of a chunk was on the bus when it was taken up, in seconds.",
    ["service", "topic"], buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30, 300, 3600),
)  # fmt: skip
TRIES = 3
"""In place, for what may work in a moment; then the record is parked."""
FIRST_WAIT_SECONDS = 0.2
YEAR_10000_MS = 253_402_300_800_000


class NotOurs(Exception):
    """The fence refused the chunk."""


class Chunks:
    """Applies chunks for one service."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.turned: Callable[[], None] = lambda: None
        """Told of each transaction: a chunk that is run one by one takes longer than a turn of the loop may."""

    def decode(self, records: Sequence[Record], topic: str, hears: Hears) -> list[Arrival]:
        """Records as facts or refusals."""
        age = self.edge.clock.now().timestamp() - records[0].timestamp / 1000
        AGE_SECONDS.labels(self.edge.service, topic).observe(max(0.0, age))
        return [arrival_of(raw_of(record, topic), hears, iso_of(record.timestamp)) for record in records]

    async def apply(self, arrivals: Sequence[Arrival], epoch: int) -> None:
        """Dispose of a chunk. A failure of one record rolls back and runs them one by one, so only that one waits.

        Raises:
            NotOurs: the fence refused. Errors of a lost database fall through.
        """
        with CHUNK_SECONDS.labels(self.edge.service).time(), traced.chunk(self.edge.service, arrivals):
            failure = await self._tried(arrivals, epoch)
            if failure is None:
                return
            mark_failed(failure)
            if len(arrivals) == 1:
                await self._dispose_failed(arrivals[0], epoch, failure)
                return
            for arrival in arrivals:
                await self.apply([arrival], epoch)

    async def _tried(self, arrivals: Sequence[Arrival], epoch: int) -> Exception | None:
        """Run the transaction, a few times where that may help: None, or what is wrong with it."""
        failure: Exception | None = None
        for attempt in range(TRIES):
            if failure is not None:
                await asyncio.sleep(FIRST_WAIT_SECONDS * 2**attempt * self.edge.clock.random.uniform(0.5, 1.0))
            try:
                await self._transaction(arrivals, epoch)
                return None
            except NotOurs:
                raise
            except disposition.DATABASE_GONE as error:
                if being_cancelled() or not await self.edge.database_answers():
                    raise
                failure = error  # a connection was lost, or a handler raised what a lost database raises
            except Exception as error:
                failure = error
                if isinstance(error, NotYetKnown) or not isinstance(error, disposition.TRANSIENT):
                    break
        return failure

    async def _transaction(self, arrivals: Sequence[Arrival], epoch: int) -> None:
        raws = [arrival.raw for arrival in arrivals]
        self.turned()
        failpoint("consume.begin")
        async with self.edge.transaction() as connection:
            fenced = await pass_fence(connection, raws[0].topic, raws[0].part, raws, epoch)
            if not fenced.passed:
                raise NotOurs
            todo = await self._sort(connection, arrivals, fenced)
            events = await self._effects(connection, todo)
            await self.edge.save(connection, events)
            failpoint("consume.commit")
        failpoint("consume.committed")
        self.edge.tell(events)

    async def _sort(self, connection: Any, arrivals: Sequence[Arrival], fenced: Fenced) -> list[Arrival]:
        """Quarantine what cannot be read, park what must wait behind an earlier one, drop repeats; the rest is to do."""
        fresh, todo, outcomes = set(fenced.fresh), list[Arrival](), CountOf[str]()
        for arrival in arrivals:
            raw, outcome = arrival.raw, "processed"
            if (raw.source, raw.id) not in fresh:
                outcome = "duplicate"
            elif arrival.refusal is not None:
                await disposition.quarantine(connection, self.edge.service, raw, arrival.refusal)
                outcome = "quarantined"
            elif raw.key and raw.key in fenced.parked_keys and not arrival.hears.commutative:
                await disposition.park(connection, raw, "behind", "an earlier event of its key waits", timedelta(0), 0)
                outcome = "parked"
            else:
                todo.append(arrival)
            fresh.discard((raw.source, raw.id))
            outcomes[outcome] += 1
        for outcome, records in outcomes.items():
            CONSUMED.labels(self.edge.service, arrivals[0].raw.topic, outcome).inc(records)
        return todo

    async def _effects(self, connection: Any, todo: Sequence[Arrival]) -> tuple[Said, ...]:
        if not todo:
            return ()
        events = await self.effects_of(connection, todo)
        if todo[0].hears.event is PipelineReleased:
            await release_unknown(connection)
        return events

    async def effects_of(self, connection: Any, todo: Sequence[Arrival]) -> tuple[Said, ...]:
        """Run the handler of facts of one topic."""
        async with self.edge.handling():
            if todo[0].hears.bulk:
                return await self._bulk(connection, todo)
            return await self.edge.apply(connection, todo)

    async def _bulk(self, connection: Any, todo: Sequence[Arrival]) -> tuple[Said, ...]:
        hears, owner = self.edge.routes[todo[0].hears.event]
        heard = [Heard(one.event, one.envelope) for one in todo if one.envelope is not None]
        work = self.edge.work(connection, heard[-1].envelope)
        returned = await hears.method(owner, heard, work)
        return tuple(
            said
            for one, events in zip(heard, returned, strict=True)
            for said in self.edge.dress(events, self.edge.work(connection, one.envelope))
        )

    async def _dispose_failed(self, arrival: Arrival, epoch: int, error: Exception) -> None:
        """One record failed: quarantine it or park it, and move on, in a transaction of its own."""
        raw = arrival.raw
        async with self.edge.transaction() as connection:
            fenced = await pass_fence(connection, raw.topic, raw.part, [raw], epoch)
            if not fenced.passed:
                raise NotOurs
            if disposition.refused(error):
                await disposition.quarantine(connection, self.edge.service, raw, error)
            else:
                delay = disposition.delay_after(1, error, self.edge.clock)
                reason, message = disposition.reason_of(error), disposition.message_of(error)
                await disposition.park(connection, raw, reason, message, delay)
        outcome = "quarantined" if disposition.refused(error) else "parked"
        CONSUMED.labels(self.edge.service, raw.topic, outcome).inc()
        log.warning(
            "%s: %s", outcome, disposition.message_of(error).strip().splitlines()[-1],
            extra={"action": outcome, "topic": raw.topic, "event_id": raw.id, "reason": disposition.reason_of(error)},
        )  # fmt: skip

    async def kill_off(self, raw: Raw, epoch: int, deaths: int) -> None:
        """A record that ended the process again and again becomes a dead letter."""
        error = ProcessKiller(deaths)
        now = self.edge.clock.now()
        async with self.edge.transaction() as connection:
            if not (await pass_fence(connection, raw.topic, raw.part, [raw], epoch)).passed:
                raise NotOurs
            await disposition.bury(connection, self.edge.service, raw, error, deaths, now)
            topic = self.edge.prefix + dead_letters(self.edge.service)
            await disposition.publish_dead(connection, topic, raw, error, deaths, now)
        CONSUMED.labels(self.edge.service, raw.topic, "dead").inc()
        log.error("dead: %s", error, extra={"action": "dead", "topic": raw.topic, "event_id": raw.id})


async def release_unknown(connection: Any) -> None:
    """What waited for a model or dataset to be declared is due now."""
    await connection.execute("UPDATE parked SET not_before = clock_timestamp() WHERE reason LIKE 'unknown-%'")


def iso_of(timestamp_ms: int) -> str:
    """A Kafka timestamp as ISO 8601 in UTC; one that is no time, or of no year we have, is the epoch."""
    sane = timestamp_ms if 0 <= timestamp_ms < YEAR_10000_MS else 0
    return datetime.fromtimestamp(sane / 1000, UTC).isoformat()
