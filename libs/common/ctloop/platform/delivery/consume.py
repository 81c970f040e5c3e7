"""The one consume loop of a service, for both planes: getmany, chunks, fence. Our books decide, not Kafka's offsets."""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from prometheus_client import Gauge

from ctloop.platform.delivery import attempts, disposition, offsets
from ctloop.platform.delivery.chunks import Chunks, NotOurs
from ctloop.platform.delivery.hears import Hears
from ctloop.platform.delivery.liveness import Liveness, leave
from ctloop.platform.delivery.offsets import Look
from ctloop.platform.delivery.records import Arrival, unreadable

log = logging.getLogger("ctloop.consume")
LAG = Gauge("ctloop_consumer_lag_records", "Records on the bus that are not disposed of.", ["service", "topic"])
CHUNK = 50
CHUNK_BYTES = 4 << 20
FETCH_MS = 200
HINT_SECONDS = 0.5
GONE_SECONDS = 60.0
JOIN_SECONDS = 120.0
"""What joining the group may take: a rebalance waits for a dead member as long as its session, 45 s."""
STANDSTILL_CHECK_SECONDS = 10.0
STANDSTILL_SECONDS = 60.0
"""How long records may wait in Kafka without any being handed out to us."""
CAUTIOUS = 50
"""Records per partition that are run one by one, under the attempt ledger, after an unclean exit."""


class _Marks(ConsumerRebalanceListener):
    """Only marks: records are handed out before this runs, and when it raised."""

    def __init__(self, loop: "ConsumeLoop") -> None:
        self._loop = loop

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        for partition in revoked:
            self._loop.epochs.pop(partition, None)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        for partition in assigned:
            self._loop.epochs.pop(partition, None)


class ConsumeLoop:
    """Consumes the topics of HEARS for one process of a service."""

    def __init__(
        self, bootstrap: str, topics: Mapping[str, Hears], chunks: Chunks, liveness: Liveness, ordinal: int
    ) -> None:
        self._bootstrap, self._topics, self._chunks, self._liveness = bootstrap, topics, chunks, liveness
        self._edge, self._ordinal = chunks.edge, ordinal
        self.epochs: dict[TopicPartition, int] = {}
        self.stopped_partitions: dict[TopicPartition, str] = {}
        self._cautious: dict[TopicPartition, int] = {}
        self._following: dict[TopicPartition, int] = {}
        self._gaps: dict[TopicPartition, int] = {}
        self._unclean = self._named = False
        self._stopping = False
        self._consumer: Any = None
        self._backoff = 0.0
        self._gone_since: float | None = None
        self._kafka_trouble_since: float | None = None
        self._moved = 0
        chunks.turned = self._progressed

    def stop(self) -> None:
        """Finish the chunk at hand and end."""
        self._stopping = True

    async def run(self) -> None:
        """Consume until stopped."""
        self._unclean = await self._note_start()
        self._consumer = self._make_consumer()
        self._liveness.not_ready("consume", "joining the group")
        self._liveness.stamp("consume", JOIN_SECONDS)
        beside: list[asyncio.Task[None]] = []
        try:
            await self._consumer.start()
            beside += [asyncio.create_task(one()) for one in (self._commit_hints, self._watch_for_standstill)]
            while not self._stopping:
                self._liveness.stamp("consume")
                await self._turn()
        finally:
            for one in beside:
                one.cancel()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await asyncio.wait_for(self._consumer.stop(), 5)
            with contextlib.suppress(*disposition.DATABASE_GONE):
                await self._note_clean_end()
            self._liveness.forget("consume")
            self._liveness.forget("fetch")

    def _make_consumer(self) -> Any:
        consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=f"{self._edge.prefix}{self._edge.service}",
            group_instance_id=f"{self._edge.prefix}{self._edge.service}-{self._ordinal}",
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            session_timeout_ms=45_000,
            heartbeat_interval_ms=3_000,
            rebalance_timeout_ms=60_000,
            max_poll_interval_ms=300_000,
            max_poll_records=500,
            fetch_max_bytes=16 << 20,
            max_partition_fetch_bytes=1 << 20,
            fetch_max_wait_ms=500,
        )
        consumer.subscribe([self._edge.prefix + topic for topic in self._topics], listener=_Marks(self))
        for topic in self._topics:
            LAG.labels(self._edge.service, topic).set_function(partial(self._lag, topic))
        return consumer

    def _lag(self, topic: str) -> int:
        """Asked for when metrics are read: the ends that the last answers named, less what is disposed of."""
        mine = [one for one in self.epochs.keys() & self._consumer.assignment() if self._bare(one) == topic]
        return sum(max(0, (self._consumer.highwater(one) or 0) - self._following.get(one, 0)) for one in mine)

    async def _turn(self) -> None:
        """Acquire what is new, fetch, apply; a lost database or broker is waited for."""
        try:
            await self._acquire_assigned()
            await self._fetch()
            self._database_is_back()
        except UnicodeDecodeError:
            await self._pass_unreadable()
        except (NoOffsetForPartitionError, OffsetOutOfRangeError, IllegalStateError):
            self.epochs.clear()  # a position was lost or the assignment moved: ask our books again
            await asyncio.sleep(0.02)
        except disposition.DATABASE_GONE as error:
            await self._database_gone(error)
        except disposition.TRANSIENT as error:  # e.g. a frozen owner still holds the row of the partition
            log.warning("tried again: %r", error, extra={"action": "consume-again"})
            await asyncio.sleep(0.2)
        except KafkaError as error:
            await self._kafka_trouble(error)

    async def _fetch(self) -> None:
        batches = await self._consumer.getmany(timeout_ms=FETCH_MS, max_records=500)
        self._kafka_trouble_since = None
        for partition, records in batches.items():
            for chunk in chunked(records):
                if not await self._apply(partition, chunk):
                    break

    async def _pass_unreadable(self) -> None:
        """A record whose header's name is no UTF-8 cannot be handed out by the client, which does not say where it is:
        partition by partition, record by record, up to it."""
        for partition, epoch in list(self.epochs.items()):
            try:
                batches = await self._consumer.getmany(partition, timeout_ms=FETCH_MS, max_records=1)
            except UnicodeDecodeError:
                topic, offset = self._bare(partition), await self._consumer.position(partition)
                await self._run(partition, [unreadable(topic, partition.partition, offset, self._topics[topic])], epoch)
                self._consumer.seek(partition, offset + 1)
                continue
            for records in batches.values():
                await self._apply(partition, records)

    async def _acquire_assigned(self) -> None:
        assigned: set[TopicPartition] = self._consumer.assignment()
        for partition in self.stopped_partitions.keys() & assigned - self._consumer.paused():
            self._set_aside(partition)  # a rebalance forgets it
        new = [one for one in assigned if one not in self.epochs and one not in self.stopped_partitions]
        if not new:
            if assigned:
                self._liveness.ready("consume")
            return
        beginnings = await self._consumer.beginning_offsets(new)
        ends = await self._consumer.end_offsets(new)
        for partition in new:
            await self._acquire(partition, beginnings[partition], ends[partition])

    async def _acquire(self, partition: TopicPartition, beginning: int, end: int) -> None:
        topic = self._bare(partition)
        async with self._edge.transaction() as connection:
            await self._leave_if_replaced(connection)
            epoch, following = await offsets.acquire(connection, topic, partition.partition, beginning)
            if following < beginning:
                lost = f"offsets {following} to {beginning - 1} were removed before they were read"
                await offsets.report_incident(connection, topic, partition.partition, "retention-loss", lost)
                await offsets.skip_lost(connection, topic, partition.partition, epoch, beginning)
                following = beginning
        if following > end:
            await self._stop_partition(partition, f"{Look.FOREIGN.value} (next is {following}, its end is {end})")
            return
        self.epochs[partition], self._following[partition] = epoch, following
        if self._unclean:
            self._cautious.setdefault(partition, CAUTIOUS)
        # One record early: that it is the one we processed last proves that this is the topic we know.
        self._consumer.seek(partition, max(beginning, following - 1))

    async def _apply(self, partition: TopicPartition, records: Sequence[Any]) -> bool:
        """Apply a chunk; False when the rest of this partition's records must be dropped and fetched again."""
        epoch = self.epochs.get(partition)
        if epoch is None:
            return False
        topic = self._bare(partition)
        arrivals = self._chunks.decode(records, topic, self._topics[topic])
        try:
            await self._run(partition, arrivals, epoch)
            self._following[partition] = arrivals[-1].raw.offset + 1
            return True
        except NotOurs:
            return await self._refused(partition, arrivals, epoch)
        except BaseException:
            self.epochs.pop(partition, None)  # fetched but not disposed of: our books say where to go on
            raise

    async def _run(self, partition: TopicPartition, arrivals: Sequence[Arrival], epoch: int) -> None:
        if self._cautious.get(partition, 0) > 0:
            await self._one_by_one(partition, arrivals, epoch)
        else:
            await self._chunks.apply(arrivals, epoch)

    async def _refused(self, partition: TopicPartition, arrivals: Sequence[Arrival], epoch: int) -> bool:
        topic, part = self._bare(partition), partition.partition
        raws = [arrival.raw for arrival in arrivals]
        async with self._edge.reading() as connection:
            why, following = await offsets.look(connection, topic, part, raws, epoch)
            if why is Look.TAKEN_OVER:
                await self._leave_if_replaced(connection)
        if why is Look.DISPOSED:
            return True
        if why is Look.PARTLY_DISPOSED:
            rest = [arrival for arrival in arrivals if arrival.raw.offset >= following]
            try:
                await self._run(partition, rest, epoch)
                return True
            except NotOurs:
                why = Look.TAKEN_OVER
        if why is Look.GAP:
            await self._report_gap(partition, following, arrivals[0].raw.offset)
        if why is Look.FOREIGN:
            await self._stop_partition(partition, why.value)
            return False
        log.warning("%s: %s", partition, why.value, extra={"action": "fenced", "topic": topic})
        self.epochs.pop(partition, None)
        return False

    async def _one_by_one(self, partition: TopicPartition, arrivals: Sequence[Arrival], epoch: int) -> None:
        """After an unclean exit: count before processing, so that a record that kills us is known after three deaths."""
        topic, part = self._bare(partition), partition.partition
        for arrival in arrivals:
            offset = arrival.raw.offset
            async with self._edge.reading() as connection:
                deaths = await attempts.begin(connection, topic, part, offset, self._edge.life)
            try:
                if deaths >= attempts.DEATHS:
                    await self._chunks.kill_off(arrival.raw, epoch, deaths)
                else:
                    await self._chunks.apply([arrival], epoch)
            finally:
                async with self._edge.reading() as connection:
                    await attempts.end(connection, topic, part, offset)
            self._cautious[partition] -= 1

    async def _report_gap(self, partition: TopicPartition, following: int, first: int) -> None:
        if self._gaps.get(partition) == following:
            return
        self._gaps[partition] = following
        missing = f"offsets {following} to {first - 1} were not handed out; they are asked for again"
        log.error("%s: %s", partition, missing, extra={"action": "incident", "topic": partition.topic})
        async with self._edge.reading() as connection:
            await offsets.report_incident(connection, self._bare(partition), partition.partition, "gap", missing)

    async def _stop_partition(self, partition: TopicPartition, why: str) -> None:
        self.stopped_partitions[partition] = why
        self.epochs.pop(partition, None)
        self._liveness.not_ready(f"{partition.topic}/{partition.partition}", why)
        log.error("%s is stopped: %s", partition, why, extra={"action": "incident", "topic": partition.topic})
        async with self._edge.reading() as connection:
            await offsets.report_incident(connection, self._bare(partition), partition.partition, "stopped", why)
        self._set_aside(partition)

    def _progressed(self) -> None:
        self._moved += 1
        self._liveness.stamp("consume")

    def _set_aside(self, partition: TopicPartition) -> None:
        """Fetch no more of a partition that is stopped."""
        self._consumer.seek(partition, 0)  # any position will do: without one, fetching fails for all partitions
        self._consumer.pause(partition)

    async def _watch_for_standstill(self) -> None:
        """A consumer can stop fetching without a word, e.g. when a rejoin hangs: then its loop turns, but for nothing."""
        seen = -1
        while True:
            if seen != self._moved or not await self._waits_in_kafka():
                self._liveness.stamp("fetch", STANDSTILL_SECONDS)
            seen = self._moved
            await asyncio.sleep(STANDSTILL_CHECK_SECONDS)

    async def _waits_in_kafka(self) -> bool:
        """Whether a partition of ours has records that were not handed out; False while Kafka does not answer."""
        ours = [one for one in self.epochs if one not in self.stopped_partitions]
        with contextlib.suppress(KafkaError, TimeoutError, AssertionError, KeyError):
            async with asyncio.timeout(5):
                ends = await self._consumer.end_offsets(ours) if ours else {}
                return any([ends[one] > await self._consumer.position(one) for one in ours])
        return False

    async def _commit_hints(self) -> None:
        """Kafka's offsets are a hint for tools: committed now and then, never waited for in the record path."""
        told: dict[TopicPartition, int] = {}
        while True:
            await asyncio.sleep(HINT_SECONDS)
            with contextlib.suppress(KafkaError, TimeoutError, AssertionError):
                positions = {one: await self._consumer.position(one) for one in list(self.epochs)}
                if positions != told:
                    await asyncio.wait_for(self._consumer.commit(positions), 5)
                    told = positions

    async def _note_start(self) -> bool:
        async with self._edge.transaction() as connection:
            if self._named:
                await self._leave_if_replaced(connection)
            clean = await connection.fetchval("SELECT clean FROM process WHERE ordinal = $1", self._ordinal)
            await connection.execute(
                """INSERT INTO process (ordinal, clean, life) VALUES ($1, false, $2)
                   ON CONFLICT (ordinal) DO UPDATE SET clean = false, life = excluded.life""",
                self._ordinal, self._edge.life,
            )  # fmt: skip
        self._named = True
        return clean is False

    async def _leave_if_replaced(self, connection: Any) -> None:
        """Two processes of one static id would displace each other from the group for ever: the older one goes."""
        mine = await connection.fetchval(
            "SELECT life = $2 FROM process WHERE ordinal = $1", self._ordinal, self._edge.life
        )
        if mine is False:
            leave(f"another process is {self._edge.service}-{self._ordinal} now")

    async def _note_clean_end(self) -> None:
        async with self._edge.reading() as connection:
            await connection.execute(
                "UPDATE process SET clean = true WHERE ordinal = $1 AND life = $2", self._ordinal, self._edge.life
            )

    async def _database_gone(self, error: BaseException) -> None:
        now = self._edge.clock.monotonic()
        self._gone_since = self._gone_since or now
        self._liveness.not_ready("postgres", f"{type(error).__name__}")
        log.warning("database: %r", error, extra={"action": "database-gone"})
        if now - self._gone_since > GONE_SECONDS:
            leave("no database for 60 s")
        self._backoff = min(max(self._backoff * 2, 0.2), 10.0)
        self.epochs.clear()
        await asyncio.sleep(self._backoff)

    def _database_is_back(self) -> None:
        if self._gone_since is not None:
            self._gone_since, self._backoff = None, 0.0
            self._liveness.ready("postgres")

    async def _kafka_trouble(self, error: KafkaError) -> None:
        """A consumer that only raises (another process has its static id) is started anew after 5 s."""
        now = self._edge.clock.monotonic()
        self._kafka_trouble_since = self._kafka_trouble_since or now
        log.warning("kafka: %r", error, extra={"action": "kafka-trouble"})
        if now - self._kafka_trouble_since > 5 and type(error) is KafkaError:
            leave(f"the consumer only raises {error!r}")
        await asyncio.sleep(0.2)

    def _bare(self, partition: TopicPartition) -> str:
        return partition.topic.removeprefix(self._edge.prefix)


def chunked(records: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """At most 50 records and about 4 MiB each, in order."""
    chunk: list[Any] = []
    size = 0
    for record in records:
        if chunk and (len(chunk) >= CHUNK or size + len(record.value or b"") > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(record)
        size += len(record.value or b"")
    if chunk:
        yield chunk
