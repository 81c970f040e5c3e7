"""Ingestion and validation on a real Kafka, PostgreSQL and S3, in this process."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from ctloop.events.data import DataLanded, DataValidated
from ctloop.events.envelope import Envelope
from ctloop.events.manifest import FieldSpec, Manifest, RecordSpec
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.values import ObjectRef
from ctloop.platform.delivery import Edge
from ctloop.platform.delivery.producer import close_by_force, open_producer
from ctloop.platform.migrate import make_schema, make_topics
from ctloop.platform.settings import KafkaSettings, PostgresSettings, S3Settings, Settings

WAIT_SECONDS = 90.0

FLIGHT = RecordSpec(
    dataset="flight",
    id="flight",
    time="departs",
    fields=(
        FieldSpec(name="flight", kind="string"),
        FieldSpec(name="departs", kind="time"),
        FieldSpec(name="carrier", kind="string", allowed=("UA", "AA", "DL")),
        FieldSpec(name="distance", kind="number", gt=0.0),
        FieldSpec(name="temp", kind="number", nullable=True),
        FieldSpec(name="note", kind="string", nullable=True, max_length=10),
    ),
    label=FieldSpec(name="late", kind="boolean"),
    earliest="2013-01-01T00:00:00+00:00",
)
MANIFEST = Manifest(
    model="late-flights",
    task="classification",
    record=FLIGHT,
    metric="log_loss",
    module="flights",
    function="late_flights",
    bundle=ObjectRef(uri="s3://ctloop/bundle", sha256="0" * 64, bytes=1, format="zip"),
    python="3.11",
)


def flight(number: int, **other: Any) -> dict[str, Any]:
    """A good record."""
    return {
        "flight": f"F{number}",
        "departs": f"2013-01-01T{number % 24:02d}:00:00Z",
        "carrier": "UA",
        "distance": 100.5,
        "temp": None,
    } | other


@dataclass
class World:
    """Both services, their databases and the bus."""

    kafka: str
    prefix: str
    ingestion: Any
    validation: Any
    door: httpx.AsyncClient
    answers: httpx.AsyncClient
    producer: Any
    environment: dict[str, str]
    """Of a process of validation's own."""
    flight = staticmethod(flight)

    async def produce(self, topic: str, envelope: Envelope, body: bytes) -> UUID:
        """Put a record on the bus."""
        await self.producer.send_and_wait(self.prefix + topic, body, key=envelope.key, headers=envelope.headers())
        return envelope.id

    async def raw(self, topic: str, body: bytes, *, key: bytes, headers: list[tuple[str, bytes]] | None = None) -> None:
        """Put any bytes on the bus."""
        await self.producer.send_and_wait(self.prefix + topic, body, key=key, headers=headers or [])

    async def release(self, manifest: Manifest = MANIFEST) -> None:
        """Let both services know a model file, and wait until they do."""
        fact = PipelineReleased(model=manifest.model, pipeline_version=1, digest=manifest.digest, manifest=manifest)
        envelope = Envelope(
            id=uuid4(), source="/ctloop/registry", type=PipelineReleased.type(), subject=manifest.model, time=now()
        )
        await self.produce(PipelineReleased.topic, envelope, fact.model_dump_json().encode())
        for edge in (self.ingestion.edge, self.validation.edge):
            await until(lambda edge=edge: value(edge, "SELECT 1 FROM pipeline WHERE model = $1", manifest.model))

    async def send(self, rows: list[dict[str, Any]] | bytes, **headers: str) -> httpx.Response:
        """Send rows through the door."""
        body = rows if isinstance(rows, bytes) else b"\n".join(json.dumps(row).encode() for row in rows)
        given = {"content-type": "application/x-ndjson"} | {name.replace("_", "-"): it for name, it in headers.items()}
        return await self.door.post("/v1/datasets/flight/records", content=body, headers=given)

    async def value(self, query: str) -> Any:
        """One value of ingestion's database, once there is one."""
        return await until(lambda: value(self.ingestion.edge, query))

    async def execute(self, statement: str) -> None:
        """Change ingestion's database."""
        async with self.ingestion.edge.reading() as connection:
            await connection.execute(statement)

    async def validated(self, count: int) -> list[DataValidated]:
        """The first ``count`` DataValidated on the bus."""
        return await facts(self.kafka, self.prefix, DataValidated, count)

    async def landed(self, count: int) -> list[DataLanded]:
        """The first ``count`` DataLanded on the bus."""
        return await facts(self.kafka, self.prefix, DataLanded, count)


def now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


async def value(edge: Edge, query: str, *arguments: Any) -> Any:
    """One value of a service's database."""
    async with edge.reading() as connection:
        return await connection.fetchval(query, *arguments)


async def until(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Wait for a fact, with a deadline."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not (found := await ask()):
            await asyncio.sleep(0.05)
    return found


async def facts(bootstrap: str, prefix: str, event: type[Any], count: int) -> list[Any]:
    """The first facts of a type, each id once."""
    from aiokafka import AIOKafkaConsumer, TopicPartition

    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(prefix + event.topic, part) for part in range(4)])
        for partition in consumer.assignment():
            consumer.seek(partition, 0)
        found: dict[bytes, Any] = {}
        async with asyncio.timeout(WAIT_SECONDS):
            while len(found) < count:
                record = await consumer.getone()
                found[dict(record.headers)["ce_id"]] = event.model_validate_json(record.value)
        return list(found.values())
    finally:
        await consumer.stop()


@pytest.fixture
async def world(request: Any, kafka: str, database: str, s3: Any, topic_prefix: str) -> AsyncIterator[World]:
    """Both services running, with empty tables and topics; with the parameter "outside" validation is built, not run."""
    import ctloop_ingestion.app
    import ctloop_validation.app

    await make_topics(KafkaSettings(bootstrap=kafka, prefix=topic_prefix))
    admin = await asyncpg.connect(database)
    for service in ("ingestion", "validation"):
        await admin.execute(f'DROP SCHEMA IF EXISTS "{service}" CASCADE')
        await make_schema(admin, service, None)
    await admin.close()
    made: dict[str, Any] = {}
    bucket = f"{topic_prefix}data"
    async with AsyncExitStack() as stack:
        creators = {"ingestion": ctloop_ingestion.app.create_app, "validation": ctloop_validation.app.create_app}
        for service, create in creators.items():
            settings = Settings(
                kafka=KafkaSettings(bootstrap=kafka, prefix=topic_prefix),
                postgres=PostgresSettings(dsn=f"{database}?search_path={service}"),
                s3=S3Settings(endpoint=s3.endpoint, keys_file=s3.keys_file, bucket=bucket),
            )
            made[service] = create(settings)
            if service == "validation" and getattr(request, "param", "") == "outside":
                pool = await stack.enter_async_context(
                    asyncpg.create_pool(settings.postgres.dsn, min_size=1, max_size=2)
                )
                made[service].edge.open(pool)
            else:
                await stack.enter_async_context(made[service].app.router.lifespan_context(made[service].app))
        producer = await open_producer(kafka)
        stack.push_async_callback(close_by_force, producer)
        door, answers = [
            await stack.enter_async_context(
                httpx.AsyncClient(transport=httpx.ASGITransport(made[service].app), base_url=f"http://{service}")
            )
            for service in ("ingestion", "validation")
        ]
        environment = {
            "CTLOOP_KAFKA__BOOTSTRAP": kafka,
            "CTLOOP_KAFKA__PREFIX": topic_prefix,
            "CTLOOP_POSTGRES__DSN": f"{database}?search_path=validation",
            "CTLOOP_S3__ENDPOINT": s3.endpoint,
            "CTLOOP_S3__KEYS_FILE": str(s3.keys_file),
            "CTLOOP_S3__BUCKET": bucket,
        }
        yield World(kafka, topic_prefix, made["ingestion"], made["validation"], door, answers, producer, environment)
