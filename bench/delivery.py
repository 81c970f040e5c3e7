"""Delivery against raw aiokafka in the same run: one hop's latency, and events per second of service CPU."""

import asyncio
import contextlib
import logging
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

import ctloop.local
from bench import write_result
from ctloop.events.envelope import Envelope, Event
from ctloop.events.model import DeploymentFailed, ModelDeployed, ModelRolledBack
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.topics import PARTITIONS, dead_letters
from ctloop.platform.delivery import Command, Heard, UnitOfWork, on
from ctloop.platform.migrate import make_schema
from ctloop.platform.service import Service, build_service
from ctloop.platform.settings import KafkaSettings, PostgresSettings, Settings

RUNS, EVENTS, HOPS = 5, 4000, 100
RAW = "raw"
INSERT_MANY = "INSERT INTO effect (model, epoch) SELECT * FROM unnest($1::text[], $2::int[])"


class Ping(Command):
    """Say one fact."""

    model: str
    epoch: int


class Handlers:
    """One effect and one fact for each event; remembers when a ping's fact was handled."""

    def __init__(self) -> None:
        self.started: dict[int, float] = {}
        self.handled = asyncio.Event()

    async def on_ping(self, ping: Ping, work: UnitOfWork) -> tuple[Event, ...]:
        """The first half of a hop."""
        return (fact(ping.model, ping.epoch),)

    async def one_by_one(self, event: ModelDeployed, work: UnitOfWork) -> tuple[Event, ...]:
        """One statement per event."""
        self.started[event.epoch] = time.monotonic()
        self.handled.set()
        await work.connection.execute("INSERT INTO effect (model, epoch) VALUES ($1, $2)", event.model, event.epoch)
        return (echo(event),)

    async def in_bulk(self, heard: Sequence[Heard], work: UnitOfWork) -> tuple[tuple[Event, ...], ...]:
        """One statement for all events of a chunk."""
        models, epochs = [one.event.model for one in heard], [one.event.epoch for one in heard]
        await work.connection.execute(INSERT_MANY, models, epochs)
        return tuple((echo(one.event),) for one in heard)


def fact(model: str, epoch: int) -> ModelDeployed:
    """Some control fact."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return ModelDeployed(
        model=model, replica="r", version=1, epoch=epoch, first_answer_at=at, load_seconds=0.0, golden=True
    )


def echo(event: ModelDeployed) -> DeploymentFailed:
    """What is said of it."""
    return DeploymentFailed(model=event.model, replica="r", version=1, epoch=event.epoch, reason="said")


async def make_topics(bootstrap: str, prefix: str) -> None:
    """The topics of one service."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    facts = (ModelDeployed, DeploymentFailed, ModelRolledBack, PipelineReleased)
    names = [*(event.topic for event in facts), dead_letters("bench"), RAW]
    await admin.create_topics([NewTopic(prefix + name, PARTITIONS, 1) for name in names])
    await admin.close()


@contextlib.asynccontextmanager
async def running(bootstrap: str, dsn: str, *, bulk: bool) -> AsyncGenerator[tuple[Service, Handlers, str, Any]]:
    """A service in this process, on a schema and topics of its own."""
    name, prefix = f"bench_{uuid4().hex[:8]}", f"{uuid4().hex[:8]}-"
    admin = await asyncpg.connect(dsn)
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    database = f"{dsn.rpartition('/')[0]}/{name}"
    made = await asyncpg.connect(database)
    await make_schema(made, "bench", None)
    await made.execute("SET search_path = bench; CREATE TABLE effect (model text, epoch int)")
    await made.execute(f"ALTER DATABASE {name} SET search_path = bench")
    await make_topics(bootstrap, prefix)
    handlers = Handlers()
    heard = (
        on(ModelDeployed, Handlers.in_bulk, says=(DeploymentFailed,), bulk=True)
        if bulk
        else on(ModelDeployed, Handlers.one_by_one, says=(DeploymentFailed,))
    )
    settings = Settings(
        kafka=KafkaSettings(bootstrap=bootstrap, prefix=prefix), postgres=PostgresSettings(dsn=database)
    )
    hears = (heard, on(Ping, Handlers.on_ping, says=(ModelDeployed,)))
    service = build_service("bench", settings, handlers=handlers, hears=hears)
    async with service.app.router.lifespan_context(service.app):
        while service.liveness.unready():  # noqa: ASYNC110 the service tells nobody
            await asyncio.sleep(0.05)
        yield service, handlers, prefix, made
    await made.close()


async def until_done(made: Any, effects: int) -> None:
    """Wait until so many effects are there and all that was said is sent."""
    query = "SELECT (SELECT count(*) FROM effect) >= $1 AND NOT EXISTS (SELECT 1 FROM outbox)"
    while not await made.fetchval(query, effects):  # noqa: ASYNC110 the database tells nobody
        await asyncio.sleep(0.05)


async def events_per_cpu_second(bootstrap: str, dsn: str, *, bulk: bool) -> float:
    """Median events per second of CPU of the process, through the full wrapper."""
    found: list[float] = []
    async with running(bootstrap, dsn, bulk=bulk) as (service, _, prefix, made):
        for run in range(RUNS + 1):
            records = [record_of(fact(f"m{n % 32}", run * EVENTS + n)) for n in range(1, EVENTS + 1)]
            begin = time.process_time()
            await feed(bootstrap, prefix + RAW, records)
            feeding = time.process_time() - begin
            begin = time.process_time()
            await feed(bootstrap, prefix + ModelDeployed.topic, records)
            await until_done(made, (run + 1) * EVENTS)
            used = time.process_time() - begin - feeding
            if run:  # the first one warms up
                found.append(EVENTS / used)
        assert not service.liveness.stuck()
    return statistics.median(found)


async def feed(bootstrap: str, topic: str, records: Sequence[tuple[bytes, bytes, Any]]) -> None:
    """Send all records; done on a topic nobody reads as well, to know what feeding itself costs."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, max_batch_size=1 << 19)
    await producer.start()
    sent = [await producer.send(topic, value, key=key, headers=headers) for key, value, headers in records]
    await asyncio.gather(*sent)
    await producer.stop()


def record_of(event: ModelDeployed) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """As another service would send it."""
    envelope = Envelope(
        id=uuid4(), source="/ctloop/other", type=event.type(), subject=event.subject, time=event.first_answer_at
    )
    return envelope.key, event.model_dump_json().encode(), envelope.headers()


async def hop_milliseconds(bootstrap: str, dsn: str) -> list[float]:
    """From the end of the transaction that says a fact to the start of its handler, one event at a time."""
    found: list[float] = []
    async with running(bootstrap, dsn, bulk=False) as (service, handlers, _, _made):
        for epoch in range(1, HOPS + 20):
            await service.edge.execute(Ping(model="m", epoch=epoch))
            committed = time.monotonic()
            await handlers.handled.wait()
            handlers.handled.clear()
            found.append(max((handlers.started[epoch] - committed) * 1000, 0.0))
            await asyncio.sleep(0.02)
    return found[19:]


async def raw_milliseconds(bootstrap: str) -> list[float]:
    """aiokafka alone: send to receive, one record at a time."""
    prefix = f"{uuid4().hex[:8]}-"
    await make_topics(bootstrap, prefix)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    consumer: Any = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await producer.start()
    await consumer.start()
    partition = TopicPartition(prefix + RAW, 0)
    consumer.assign([partition])
    consumer.seek(partition, 0)
    found: list[float] = []
    for number in range(HOPS + 20):
        at = time.monotonic()
        await producer.send(partition.topic, str(number).encode(), partition=0)
        await consumer.getone()
        found.append((time.monotonic() - at) * 1000)
    await consumer.stop()
    await producer.stop()
    return found[20:]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99, rounded."""
    cuts = statistics.quantiles(values, n=100)
    return {"p50": round(cuts[49], 2), "p95": round(cuts[94], 2), "p99": round(cuts[98], 2)}


async def measure_all(bootstrap: str, dsn: str) -> dict[str, Any]:
    """Everything, medians of five runs."""
    raw, hops = [], []
    for _ in range(RUNS):
        raw.append(percentiles(await raw_milliseconds(bootstrap)))
        hops.append(percentiles(await hop_milliseconds(bootstrap, dsn)))
    median = {name: statistics.median(one[name] for one in hops) for name in hops[0]}
    raw_median = {name: statistics.median(one[name] for one in raw) for name in raw[0]}
    return {
        "runs": RUNS,
        "hop_ms": median,
        "raw_aiokafka_ms": raw_median,
        "hop_over_raw_p50": round(median["p50"] / raw_median["p50"], 2),
        "events_per_cpu_second": {
            "one_statement_per_event": round(await events_per_cpu_second(bootstrap, dsn, bulk=False)),
            "bulk_effect": round(await events_per_cpu_second(bootstrap, dsn, bulk=True)),
        },
        "note": "CPU of the whole process with relay and outbox, less what feeding an unread topic costs",
    }


def measure() -> Path:
    """Start a Kafka and a PostgreSQL, measure, write bench/results/delivery.json."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="ctloop-bench-", ignore_cleanup_errors=True) as folder:
        data = Path(folder)
        data.chmod(0o711)
        stack = ctloop.local.up(data / "s", components=("kafka", "postgres"), services=(), tied=True)
        try:
            password = stack.files["postgres"].read_text()
            dsn = stack.urls["postgres"].replace("postgres@", f"postgres:{password}@")
            return write_result("delivery", asyncio.run(measure_all(stack.urls["kafka"], dsn)))
        finally:
            ctloop.local.down(data / "s")


if __name__ == "__main__":
    print(measure())
