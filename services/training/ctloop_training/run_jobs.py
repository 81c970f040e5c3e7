"""The jobs of training and what they end in."""

from datetime import timedelta
from typing import Any, ClassVar, Literal
from uuid import UUID

from ctloop.events.envelope import Value
from ctloop.events.manifest import Manifest
from ctloop.events.training import ModelTrained, TrainingFailed
from ctloop.events.values import ObjectRef
from ctloop.platform.jobs import Job, JobEnd
from ctloop_training.run_spec import Failed, RunSpec, Trained


class TrainModel(Job):
    """A run."""

    kind: ClassVar[str] = "train-model"
    lane: ClassVar[str] = "train"
    deadline: ClassVar[timedelta] = timedelta(hours=6)
    max_attempts: ClassVar[int] = 10
    """Ray is waited for without spending one; they are for a store that is away for two minutes, and for workers that die."""
    spec: RunSpec

    @property
    def lane_key(self) -> str:
        """Runs of one model follow one another."""
        return self.spec.manifest.model


class RunTrained(JobEnd):
    """A run ended with a model."""

    spec: RunSpec
    trained: Trained
    mlflow_run_id: str | None
    attempts: int


class RunFailed(JobEnd):
    """A run ended without one; trying again would not change it."""

    spec: RunSpec
    failed: Failed
    mlflow_run_id: str | None
    attempts: int


class RunRecord(Value):
    """What MLflow shows of a run."""

    run_id: UUID
    model: str
    status: Literal["FINISHED", "FAILED"]
    params: tuple[tuple[str, str], ...] = ()
    metrics: tuple[tuple[str, float], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    artifacts: tuple[tuple[str, ObjectRef], ...] = ()


class RecordRun(Job):
    """Show an ended run in MLflow, whenever MLflow is there."""

    kind: ClassVar[str] = "record-run"
    lane: ClassVar[str] = "mlflow"
    max_attempts: ClassVar[int] = 60
    record: RunRecord

    @property
    def lane_key(self) -> str:
        return self.record.model


class RunRecorded(JobEnd):
    """MLflow shows it."""

    run_id: UUID
    mlflow_run_id: str


class WarmWorker(Job):
    """Have a Ray worker with the user's module loaded before the first run."""

    kind: ClassVar[str] = "warm-worker"
    priority: ClassVar[int] = -1
    max_attempts: ClassVar[int] = 2
    manifest: Manifest


class WorkerWarmed(JobEnd):
    """A worker is ready, or Ray is not there and the run will make its own."""

    model: str


def model_trained(done: RunTrained) -> ModelTrained:
    """The fact of a run that ended with a model."""
    spec, trained = done.spec, done.trained
    return ModelTrained(
        model=spec.manifest.model,
        run_id=spec.run_id,
        decision_id=spec.decision_id,
        pipeline_digest=spec.pipeline_digest,
        dataset=spec.manifest.record.dataset,
        dataset_version=spec.dataset_version,
        data_time=spec.data_time,
        mlflow_run_id=done.mlflow_run_id,
        **_copied(trained),
    )


def _copied(trained: Trained) -> dict[str, Any]:
    names = set(Trained.model_fields) - {"event"}
    return {name: getattr(trained, name) for name in names}


def training_failed(spec: RunSpec, failed: Failed, attempts: int) -> TrainingFailed:
    """The fact of a run that ended without one."""
    return TrainingFailed(
        model=spec.manifest.model,
        run_id=spec.run_id,
        decision_id=spec.decision_id,
        reason=failed.reason,
        message=failed.message,
        log_tail=failed.log_tail,
        attempts=max(1, attempts),
    )


def record_of(spec: RunSpec, trained: Trained | None = None, failed: Failed | None = None) -> RunRecord:
    """What MLflow is told of an ended run."""
    tags = {
        "ctloop.decision_id": str(spec.decision_id),
        "ctloop.pipeline_digest": spec.pipeline_digest,
        "ctloop.dataset": f"{spec.manifest.record.dataset}@{spec.dataset_version.n}",
        "ctloop.dataset_digest": spec.dataset_version.digest,
        "ctloop.data_time": spec.data_time.isoformat(),
        "ctloop.cause": spec.cause[:400],
    }
    if trained is None:
        assert failed is not None, "a run ends in one of the two"
        tags |= {"ctloop.failed": failed.reason, "ctloop.message": failed.message[:400]}
        return RunRecord(run_id=spec.run_id, model=spec.manifest.model, status="FAILED", tags=tuple(tags.items()))
    return RunRecord(
        run_id=spec.run_id,
        model=spec.manifest.model,
        status="FINISHED",
        params=tuple((name, str(value)) for name, value in trained.params),
        metrics=(*((one.name, one.value) for one in trained.metrics), ("user_seconds", trained.user_seconds)),
        tags=tuple((tags | {"ctloop.onnx_sha256": trained.onnx.sha256}).items()),
        artifacts=(("capsule.json", trained.capsule), ("model.onnx", trained.onnx), ("golden.arrow", trained.golden)),
    )
