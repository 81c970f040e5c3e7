"""The job that judges a model, and what it ends in."""

from datetime import timedelta
from typing import ClassVar

from ctloop.events.manifest import Manifest
from ctloop.events.model import ModelValidated
from ctloop.events.training import ModelTrained
from ctloop.events.values import GateResult, Measured, ObjectRef, Verdict
from ctloop.platform.jobs import Job, JobEnd
from ctloop_validation.model_store import Champion


class EvaluateModel(Job):
    """Replay a candidate and the champion on the same gate rows."""

    kind: ClassVar[str] = "evaluate-model"
    lane: ClassVar[str] = "model"
    deadline: ClassVar[timedelta] = timedelta(minutes=15)
    max_attempts: ClassVar[int] = 80
    """A model that misbehaves ends in a verdict, not in an attempt: these are for a store that is away."""
    trained: ModelTrained
    champion: Champion | None
    manifest: Manifest

    @property
    def lane_key(self) -> str:
        """Candidates of one model are judged one after another."""
        return self.trained.model


class ModelEvaluated(JobEnd):
    """The verdict of one challenge."""

    trained: ModelTrained
    champion_epoch: int
    verdict: Verdict
    gates: tuple[GateResult, ...]
    metrics: tuple[Measured, ...] = ()
    champion_metrics: tuple[Measured, ...] = ()
    evidence: ObjectRef
    replay_seconds: float = 0.0


def model_validated(done: ModelEvaluated) -> ModelValidated:
    """The fact of a challenge."""
    trained = done.trained
    return ModelValidated(
        model=trained.model,
        run_id=trained.run_id,
        pipeline_digest=trained.pipeline_digest,
        onnx=trained.onnx,
        golden=trained.golden,
        signature=trained.signature,
        mlflow_run_id=trained.mlflow_run_id,
        dataset=trained.dataset,
        dataset_version=trained.dataset_version,
        training_window=trained.training_window,
        gate_window=trained.gate_window,
        verdict=done.verdict,
        gates=done.gates,
        metrics=done.metrics,
        champion_metrics=done.champion_metrics,
        champion_epoch=done.champion_epoch,
        evidence=done.evidence,
        replay_seconds=done.replay_seconds,
    )
