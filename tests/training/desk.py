"""Training's handlers with facts to tell them, on a real PostgreSQL."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

from flower_lake import NAMESPACE, START

from ctloop.events.data import DataValidated
from ctloop.events.envelope import Envelope
from ctloop.events.manifest import FieldSpec, Manifest, RecordSpec
from ctloop.events.model import ModelPromoted, ModelValidated, PerformanceMeasured
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.values import (
    DatasetVersion,
    Measured,
    ObjectRef,
    Parity,
    Signature,
    TrafficShare,
    Verdict,
    Window,
)
from ctloop.platform.delivery.work import Work
from ctloop.platform.jobs import JobQueue
from ctloop_training.handlers import TrainingHandlers
from ctloop_training.run_jobs import RunTrained, TrainModel
from ctloop_training.run_spec import RunSpec, Trained
from ctloop_training.store import StoredDecision, TrainingStore

REF = ObjectRef(uri="s3://ctloop/x", sha256="0" * 64, bytes=1)
RECORD = RecordSpec(
    dataset="flower",
    id="flower",
    time="seen",
    fields=(FieldSpec(name="flower", kind="string"), FieldSpec(name="seen", kind="time")),
    label=FieldSpec(name="tall", kind="boolean"),
)
MANIFEST = Manifest(
    model="flowers", task="classification", record=RECORD, metric="log_loss", module="m", function="f", bundle=REF,
    python="3.11",
)  # fmt: skip
WEEK = timedelta(days=7)
SIGNATURE = Signature(inputs=(), outputs=(), classes=("false", "true"))
WorkFor = Callable[[str], Work]


def version(n: int) -> DatasetVersion:
    return DatasetVersion(n=n, digest=f"d{n}", records_version=n, labels_version=n)


def validated(n: int, labelled: int, dataset: str = "flower") -> DataValidated:
    """A batch; data time rises by a day with each."""
    return DataValidated(
        dataset=dataset, verdict=Verdict.PASSED, batch=REF, number=n, version=version(n), rows=labelled,
        labelled=labelled, data_time=START + timedelta(days=n), report_uri="s3://ctloop/r",
    )  # fmt: skip


def promoted(epoch: int, run_id: UUID) -> ModelPromoted:
    window = Window(start=START - 8 * WEEK, end=START + 4 * WEEK, rows=60_000)
    return ModelPromoted(
        model="flowers", version=epoch, run_id=run_id, digest="0" * 64, onnx=REF, golden=REF, signature=SIGNATURE,
        pipeline_digest=MANIFEST.digest, epoch=epoch, dataset="flower", dataset_version=version(1),
        training_window=window, traffic=(TrafficShare(version=epoch, percent=100),), data_time=START,
        metrics=(Measured(name="log_loss", value=0.5, low=0.48, high=0.52), Measured(name="skill", value=0.3)),
    )  # fmt: skip


def measured(epoch: int, week: int, loss: float, skill: float) -> PerformanceMeasured:
    window = Window(start=START + week * WEEK, end=START + (week + 1) * WEEK, rows=2000)
    return PerformanceMeasured(
        model="flowers", version=epoch, epoch=epoch, window=window, predictions=2000, labels=2000, coverage=1.0,
        data_time=window.end,
        metrics=(
            Measured(name="log_loss", value=loss, low=loss - 0.01, high=loss + 0.01),
            Measured(name="skill", value=skill, low=skill - 0.01, high=skill + 0.01),
        ),
    )  # fmt: skip


def judged(run_id: UUID, verdict: Verdict, epoch: int) -> ModelValidated:
    window = Window(start=START, end=START + WEEK)
    return ModelValidated(
        model="flowers", run_id=run_id, pipeline_digest=MANIFEST.digest, onnx=REF, golden=REF, signature=SIGNATURE,
        dataset="flower", dataset_version=version(1), training_window=window, gate_window=window, verdict=verdict,
        gates=(), metrics=(), champion_epoch=epoch, evidence=REF,
    )  # fmt: skip


def ended(spec: RunSpec) -> RunTrained:
    window = Window(start=START, end=START + WEEK)
    result = Trained(
        onnx=REF, golden=REF, capsule=REF, signature=SIGNATURE, metrics=(), params=(("C", 1.0),), trials=1,
        parity=Parity(rows=1, largest_difference=0, flipped=0), training_window=window, gate_window=window,
        user_seconds=0.1,
    )  # fmt: skip
    return RunTrained(spec=spec, trained=result, mlflow_run_id="abc", attempts=1)


class Desk:
    """The handlers, and units of work whose causes have names."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.store = TrainingStore()
        self.handlers = TrainingHandlers(self.store)

    def work(self, cause: str) -> Work:
        envelope = Envelope(id=uuid5(NAMESPACE, cause), source="/test", type="t", subject="flowers", time=START)
        return Work(self.connection, envelope, START, JobQueue(self.connection, envelope, "ctloop_training_jobs"))

    async def release(self, manifest: Manifest = MANIFEST) -> None:
        event = PipelineReleased(model=manifest.model, pipeline_version=1, digest=manifest.digest, manifest=manifest)
        await self.handlers.on_pipeline_released(event, self.work("release"))

    async def runs(self) -> list[RunSpec]:
        rows = await self.connection.fetch("SELECT arguments FROM job WHERE kind = 'train-model' ORDER BY seq")
        return [TrainModel.model_validate_json(row["arguments"]).spec for row in rows]

    async def jobs(self, kind: str) -> int:
        return await self.connection.fetchval("SELECT count(*) FROM job WHERE kind = $1", kind)

    async def decisions(self) -> tuple[StoredDecision, ...]:
        return await self.store.decisions(self.connection, "flowers", outcome=None, before=None, limit=50)

    async def first_run(self) -> RunSpec:
        """A model that has been decided on."""
        await self.release()
        await self.handlers.on_data_validated(validated(1, 400), self.work("data 1"))
        (spec,) = await self.runs()
        return spec

    async def champion(self, epoch: int = 1) -> RunSpec:
        """A model that has a champion."""
        spec = await self.first_run()
        await self.handlers.on_run_trained(ended(spec), self.work("trained"))
        await self.handlers.on_model_promoted(promoted(epoch, spec.run_id), self.work("promoted"))
        return spec
