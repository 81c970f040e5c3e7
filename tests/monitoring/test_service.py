"""Monitoring as it runs: facts by Kafka, labels from the store, the reference from the lake, answers over HTTP."""

import asyncio
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from ctloop.events.data import DataValidated, PredictionsServed
from ctloop.events.envelope import Envelope, Event
from ctloop.events.model import PerformanceMeasured
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.values import DatasetVersion, ObjectRef, Verdict
from ctloop.platform.delivery.producer import close_by_force, open_producer
from ctloop.platform.migrate import make_schema, make_topics
from ctloop.platform.settings import KafkaSettings, PostgresSettings, S3Settings, Settings
from ctloop.platform.storage import ARRIVED, SEQUENCE, Lake, Objects, Roles
from ctloop_monitoring.app import create_app

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]
MICROS = pa.timestamp("us", "UTC")


@pytest.fixture
async def settings(kafka: str, database: str, s3: Any, topic_prefix: str) -> Settings:
    """Topics and tables are there."""
    await make_topics(KafkaSettings(bootstrap=kafka, prefix=topic_prefix))
    admin = await asyncpg.connect(database)
    await admin.execute('DROP SCHEMA IF EXISTS "monitoring" CASCADE')
    await make_schema(admin, "monitoring", None)
    await admin.close()
    return Settings(
        kafka=KafkaSettings(bootstrap=kafka, prefix=topic_prefix),
        postgres=PostgresSettings(dsn=f"{database}?search_path=monitoring"),
        s3=S3Settings(endpoint=s3.endpoint, keys_file=s3.keys_file, bucket=s3.bucket),
    )


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The running service."""
    app = create_app(settings).app
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://monitoring") as client,
    ):
        yield client


async def put_on_the_bus(settings: Settings, *events: Event) -> None:
    """As other services say them."""
    producer = await open_producer(settings.kafka.bootstrap)
    for event in events:
        body = event.body if isinstance(event, PredictionsServed) else event.model_dump_json().encode()
        envelope = Envelope(
            id=uuid4(), source="/ctloop/test", type=event.type(), subject=event.subject, time=datetime.now(UTC)
        )
        for _ in range(2):  # twice: a redelivery changes nothing
            await producer.send_and_wait(
                settings.kafka.prefix + event.topic, body, key=envelope.key, headers=envelope.headers()
            )
    await close_by_force(producer)


async def measured(settings: Settings, count: int) -> list[PerformanceMeasured]:
    """The first windows said."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka.bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        topic = settings.kafka.prefix + PerformanceMeasured.topic
        consumer.assign([TopicPartition(topic, part) for part in range(4)])
        for partition in consumer.assignment():
            consumer.seek(partition, 0)
        found: dict[bytes, PerformanceMeasured] = {}
        async with asyncio.timeout(60):
            while len(found) < count:
                record = await consumer.getone()
                found[dict(record.headers)["ce_id"]] = PerformanceMeasured.model_validate_json(record.value)
        return list(found.values())
    finally:
        await consumer.stop()


async def labels(settings: Settings, world: Any, rows: list[Any]) -> ObjectRef:
    """Accepted labels as validation writes them."""
    table = pa.table(
        {
            "id": [one.record_id for one in rows],
            "value": [one.chance > 0.5 for one in rows],
            "observed_at": pa.array([one.at + timedelta(minutes=1) for one in rows], MICROS),
            "sequence": pa.array(range(len(rows)), pa.int64()),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    async with Objects(settings.s3) as objects:
        return await objects.put_content("labels", sink.getvalue(), format="parquet")


def lake_of(settings: Settings, world: Any) -> DatasetVersion:
    """The records the version was trained on."""
    times = [world.START - timedelta(minutes=one) for one in range(1000, 0, -1)]
    records = pa.table(
        {
            "flight": [f"t{one}" for one in range(1000)],
            "departs": pa.array(times, MICROS),
            "temp": [float(one % 20) for one in range(1000)],
            "carrier": ["UA" if one % 2 else "AA" for one in range(1000)],
            SEQUENCE: pa.array(range(1000), pa.int64()),
            ARRIVED: pa.array(times, MICROS),
        }
    )
    made = Lake(settings.s3).append(world.DATASET, records, None, 1, roles=Roles("flight", "departs", "late"))
    return DatasetVersion(n=1, digest="d", records_version=made.records_version, labels_version=made.labels_version)


async def test_from_predictions_and_labels_to_performance(
    settings: Settings, client: httpx.AsyncClient, world: Any
) -> None:
    """Every fact comes twice, in no particular order of topics: each window is said once, and shown over HTTP."""
    version = await asyncio.to_thread(lake_of, settings, world)
    minute = timedelta(minutes=1)
    rows = [
        world.Prediction(f"r{one}", world.START + one * minute, 0.9 if one % 3 else 0.2, temp=float(one % 20))
        for one in range(180)
    ]
    ref = await labels(settings, world, rows)
    released = PipelineReleased(
        model=world.MODEL, pipeline_version=1, digest=world.MANIFEST.digest, manifest=world.MANIFEST
    )
    validated = DataValidated(
        dataset=world.DATASET,
        verdict=Verdict.PASSED,
        batch=ref,
        number=1,
        version=version,
        labels=ref,
        rows=180,
        labelled=180,
        data_time=world.START + 2 * world.HOUR + 30 * minute,
        report_uri="s3://ctloop/report",
    )
    promoted = world.promotion(1, world.START, 48_000).model_copy(update={"dataset_version": version})
    served = [
        PredictionsServed(model=world.MODEL, body=world.served(rows[one : one + 30])) for one in range(0, 180, 30)
    ]
    await put_on_the_bus(settings, promoted, *served, released, validated)
    said = await measured(settings, 2)
    assert [(one.window.start - world.START, one.predictions, one.labels) for one in said] == [
        (timedelta(0), 60, 59),
        (world.HOUR, 60, 60),
    ]
    performance = (await client.get(f"/v1/models/{world.MODEL}/performance")).json()
    assert [one["labels"] for one in performance["items"]] == [60, 59]
    assert performance["watch"]["reference"] is True
    drift = (await client.get(f"/v1/models/{world.MODEL}/drift")).json()
    assert drift["episodes"] == []
    assert (await client.get("/v1/models/nobody/drift")).status_code == 404
