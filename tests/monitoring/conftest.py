"""Monitoring's handlers on a real PostgreSQL, told facts one by one."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import numpy as np
import pyarrow as pa
import pytest

from ctloop.events.data import PredictionsServed
from ctloop.events.envelope import Envelope, Event
from ctloop.events.manifest import FieldSpec, Manifest, RecordSpec
from ctloop.events.model import ModelPromoted
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.values import Column, DatasetVersion, ObjectRef, Signature, TrafficShare, Window
from ctloop.platform.delivery import Edge, Heard, on
from ctloop.platform.migrate import make_schema
from ctloop.platform.pipelines import PipelineHandlers
from ctloop_monitoring.domain import bins
from ctloop_monitoring.domain.columns import LabelColumns
from ctloop_monitoring.handlers import HEARS, MonitoringHandlers
from ctloop_monitoring.store import MonitoringStore
from ctloop_monitoring.watching import Watching
from ctloop_monitoring.work import LabelsRead, LookAgain, ReferenceBuilt

NAMESPACE = UUID("5f3a1c1e-6f41-4f0e-8a55-8a4a8b0a2a11")
MODEL, DATASET = "weather-delays", "weather-delay"
START = datetime(2013, 1, 7, tzinfo=UTC)
"""A Monday: the grid of windows starts on one."""
HOUR = timedelta(hours=1)
MANIFEST = Manifest(
    model=MODEL,
    task="classification",
    record=RecordSpec(
        dataset=DATASET,
        id="flight",
        time="departs",
        fields=(
            FieldSpec(name="flight", kind="string"),
            FieldSpec(name="departs", kind="time"),
            FieldSpec(name="temp", kind="number", nullable=True),
            FieldSpec(name="carrier", kind="string", nullable=True),
        ),
        label=FieldSpec(name="late", kind="boolean"),
    ),
    metric="log_loss",
    report=("auc",),
    module="weather",
    function="weather_delays",
    bundle=ObjectRef(uri="s3://ctloop/bundle", sha256="0" * 64, bytes=1, format="zip"),
    python="3.11",
)
SIGNATURE = Signature(
    inputs=(Column(name="temp", kind="number"), Column(name="carrier", kind="text")),
    outputs=(Column(name="label", kind="number"), Column(name="probabilities", kind="number")),
    classes=("false", "true"),
)


@dataclass
class Prediction:
    """One answer of serving."""

    record_id: str | None
    at: datetime
    chance: float = 0.5
    temp: float | None = 10.0
    carrier: str | None = "UA"
    version: int = 1
    epoch: int = 1
    copy: int = 0

    @property
    def id(self) -> UUID:
        return uuid5(NAMESPACE, f"{self.record_id}|{self.at}|{self.version}|{self.copy}")


@dataclass
class Label:
    """One observation of a label."""

    record_id: str
    at: datetime
    late: bool
    sequence: int = 1


@dataclass
class Monitor:
    """Tells monitoring facts, each in a transaction of its own, and keeps what it says."""

    edge: Edge
    handlers: MonitoringHandlers
    said: list[Event] = field(default_factory=list[Event])
    told: int = 0

    async def tell(self, what: Any, *, again: bool = False) -> tuple[Event, ...]:
        """Have one fact, job end or timer handled; ``again``: its delivery is undone and repeated."""
        self.told += 1
        cause = Envelope(
            id=uuid5(NAMESPACE, f"cause {self.told}"),
            source="/ctloop/test",
            type=f"io.ctloop.{type(what).__name__.lower()}.v1",
            subject=MODEL,
            time=datetime.now(UTC),
        )
        if again:
            with pytest.raises(asyncpg.PostgresError):
                async with self.edge.transaction() as connection:
                    await self._handle(connection, what, cause)
                    await connection.execute("SELECT 1 / 0")
        async with self.edge.transaction() as connection:
            events = await self._handle(connection, what, cause)
        self.said += events
        return events

    async def _handle(self, connection: Any, what: Any, cause: Envelope) -> tuple[Event, ...]:
        hears, owner = self.edge.routes[type(what)]
        work = self.edge.work(connection, cause)
        if hears.bulk:
            return tuple(one for events in await hears.method(owner, [Heard(what, cause)], work) for one in events)
        return await hears.method(owner, what, work)

    async def serve(self, rows: Sequence[Prediction], *, again: bool = False) -> tuple[Event, ...]:
        """Tell it predictions."""
        return await self.tell(PredictionsServed(model=MODEL, body=served(rows)), again=again)

    async def labels(self, rows: Sequence[Label], data_time: datetime, *, again: bool = False) -> tuple[Event, ...]:
        """Tell it the labels of a batch and how far data time has come."""
        columns = LabelColumns(
            record_ids=[one.record_id for one in rows],
            observed_at=[one.at for one in rows],
            sequences=[one.sequence for one in rows],
            words=["true" if one.late else "false" for one in rows],
            numbers=[None for _ in rows],
        )
        return await self.tell(LabelsRead(dataset=DATASET, labels=columns, data_time=data_time), again=again)

    async def promote(self, version: int, data_time: datetime = START, rows: int = 2000 * 24) -> tuple[Event, ...]:
        """Promote a version trained on a day of ``rows`` records, and build its reference."""
        said = await self.tell(promotion(version, data_time, rows))
        return (*said, *await self.build_reference(version))

    async def build_reference(self, epoch: int) -> tuple[Event, ...]:
        """The reference of an epoch is there."""
        reference = bins.reference(training_table(), ("temp", "carrier"))
        return await self.tell(ReferenceBuilt(model=MODEL, epoch=epoch, reference=reference))

    async def idle(self, end: datetime) -> tuple[Event, ...]:
        """Nobody has predicted for long, and the timer goes off."""
        async with self.edge.transaction() as connection:
            await connection.execute("UPDATE served SET heard_at = heard_at - interval '1 hour'")
        return await self.tell(LookAgain(model=MODEL, end=end))


def training_table(rows: int = 5000) -> pa.Table:
    """Records like the ones the version was trained on: temp is normal around 10, four carriers."""
    dice = np.random.default_rng(3)
    return pa.table(
        {"temp": dice.normal(10, 5, rows), "carrier": dice.choice(["UA", "AA", "DL", "B6"], rows).astype(object)}
    )


def promotion(version: int, data_time: datetime, rows: int) -> ModelPromoted:
    """The fact that a version became champion, at the epoch of the same number."""
    return ModelPromoted(
        model=MODEL,
        version=version,
        run_id=uuid5(NAMESPACE, f"run {version}"),
        digest="1" * 64,
        onnx=ObjectRef(uri="s3://ctloop/onnx", sha256="1" * 64, bytes=1),
        golden=ObjectRef(uri="s3://ctloop/golden", sha256="2" * 64, bytes=1),
        signature=SIGNATURE,
        pipeline_digest=MANIFEST.digest,
        epoch=version,
        dataset=DATASET,
        dataset_version=DatasetVersion(n=1, digest="d", records_version=0, labels_version=0),
        training_window=Window(start=data_time - timedelta(days=1), end=data_time, rows=rows),
        metrics=(),
        traffic=(TrafficShare(version=version, percent=100),),
        data_time=data_time,
    )


def served(rows: Sequence[Prediction]) -> bytes:
    """The body of PredictionsServed, as serving writes it."""
    micros = pa.timestamp("us", "UTC")
    vectors = [[1 - one.chance, one.chance] for one in rows]
    table = pa.table(
        {
            "prediction_id": pa.array([str(one.id) for one in rows]),
            "record_id": pa.array([one.record_id for one in rows], pa.string()),
            "version": pa.array([one.version for one in rows], pa.int64()),
            "epoch": pa.array([one.epoch for one in rows], pa.int64()),
            "output": pa.array([one.chance for one in rows], pa.float64()),
            "label": pa.array(["true" if one.chance > 0.5 else "false" for one in rows]),
            "probabilities": pa.array(vectors, pa.list_(pa.float64())),
            "data_time": pa.array([one.at for one in rows], micros),
            "served_at": pa.array([one.at for one in rows], micros),
            "input.temp": pa.array([one.temp for one in rows], pa.float32()),
            "input.carrier": pa.array([one.carrier for one in rows], pa.string()),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.fixture
async def monitor(database: str) -> AsyncIterator[Monitor]:
    """Monitoring with empty tables and a released pipeline."""
    admin = await asyncpg.connect(database)
    await admin.execute('DROP SCHEMA IF EXISTS "monitoring" CASCADE')
    await make_schema(admin, "monitoring", None)
    await admin.close()
    handlers, pipelines = MonitoringHandlers(Watching(MonitoringStore())), PipelineHandlers()
    released = on(PipelineReleased, PipelineHandlers.on_pipeline_released)
    edge = Edge("monitoring", [(released, pipelines), *((one, handlers) for one in HEARS)])
    async with asyncpg.create_pool(
        database, min_size=1, max_size=2, server_settings={"search_path": "monitoring"}
    ) as pool:
        edge.open(pool)
        made = Monitor(edge, handlers)
        await made.tell(PipelineReleased(model=MODEL, pipeline_version=1, digest=MANIFEST.digest, manifest=MANIFEST))
        yield made


@pytest.fixture
def world() -> Any:
    """The words tests are written in: Prediction, Label, and the times they happen at."""
    return World


class World:
    """Names for tests."""

    Prediction, Label = Prediction, Label
    START, HOUR, MODEL, DATASET, MANIFEST = START, HOUR, MODEL, DATASET, MANIFEST
    temps = training_table().column("temp").to_pylist()
    served, promotion = staticmethod(served), staticmethod(promotion)
