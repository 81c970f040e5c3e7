"""Facts about model versions: validated, promoted, rolled back, deployed, measured."""

from typing import ClassVar
from uuid import UUID

from pydantic import Field

from ctloop.events.envelope import Instant, ModelEvent
from ctloop.events.values import (
    DatasetVersion,
    GateResult,
    Measured,
    ObjectRef,
    Signature,
    TrafficShare,
    Verdict,
    Window,
)


class ModelValidated(ModelEvent):
    """Candidate and champion were judged on the same gate rows."""

    topic: ClassVar[str] = "model-validated.v1"
    run_id: UUID
    pipeline_digest: str
    onnx: ObjectRef
    golden: ObjectRef
    signature: Signature
    mlflow_run_id: str | None = None
    dataset: str
    dataset_version: DatasetVersion
    training_window: Window
    gate_window: Window
    verdict: Verdict
    gates: tuple[GateResult, ...]
    metrics: tuple[Measured, ...] = Field(description="The candidate's metrics on the gate rows.")
    champion_metrics: tuple[Measured, ...] = Field(default=(), description="The champion's on the same rows.")
    champion_epoch: int = Field(description="Epoch of the champion it was compared with; 0: there was none.", ge=0)
    evidence: ObjectRef = Field(description="All values and the rows they come from, JSON.")
    replay_seconds: float = Field(default=0.0, description="Wall time spent in replaying both on the gate rows.", ge=0)

    @property
    def discriminator(self) -> str:
        return f"{self.run_id}|{self.champion_epoch}"


class Promotion(ModelEvent):
    """What the two facts that move traffic say."""

    version: int = Field(description="Model version, numbered by the registry.", ge=1)
    run_id: UUID
    digest: str = Field(description="sha256 of the ONNX bytes.")
    onnx: ObjectRef
    golden: ObjectRef
    signature: Signature
    pipeline_digest: str
    epoch: int = Field(description="Rises by one with every move of the pointer.", ge=1)
    dataset: str
    dataset_version: DatasetVersion
    training_window: Window
    metrics: tuple[Measured, ...] = Field(description="Gate metrics at promotion.")
    traffic: tuple[TrafficShare, ...]
    previous_version: int | None = None
    data_time: Instant = Field(description="End of the gate rows: data time the promotion rests on.")

    @property
    def discriminator(self) -> str:
        return f"{self.model}|{self.epoch}"


class ModelPromoted(Promotion):
    """A version became champion."""

    topic: ClassVar[str] = "model-promoted.v1"
    evidence: ObjectRef | None = Field(default=None, description="Gate evidence; None when a person promoted.")
    gates: tuple[GateResult, ...] = ()


class ModelRolledBack(Promotion):
    """The pointer went back to an earlier version, under a new epoch."""

    topic: ClassVar[str] = "model-rolled-back.v1"
    reason: str = Field(max_length=2000)


class ModelDeployed(ModelEvent):
    """A replica answers with this version."""

    topic: ClassVar[str] = "model-deployed.v1"
    replica: str
    version: int = Field(ge=1)
    epoch: int = Field(ge=1)
    first_answer_at: Instant = Field(description="Wall clock of the first answer.")
    load_seconds: float = Field(ge=0)
    golden: bool = Field(description="True when the first answer was serving's own golden request.")

    @property
    def discriminator(self) -> str:
        return f"{self.model}|{self.epoch}|{self.replica}"


class DeploymentFailed(ModelEvent):
    """A replica could not take a version; it goes on with the one it has."""

    topic: ClassVar[str] = "deployment-failed.v1"
    replica: str
    version: int = Field(ge=1)
    epoch: int = Field(ge=1)
    reason: str = Field(max_length=2000)

    @property
    def discriminator(self) -> str:
        return f"{self.model}|{self.epoch}|{self.replica}"


class PerformanceMeasured(ModelEvent):
    """How good a version was in one window of data time, by the labels that have come."""

    topic: ClassVar[str] = "performance-measured.v1"
    continues_loop: ClassVar[bool] = False
    version: int = Field(ge=1)
    epoch: int = Field(ge=1)
    window: Window
    predictions: int = Field(ge=0)
    labels: int = Field(ge=0)
    coverage: float = Field(description="Labels per prediction, 0 to 1.", ge=0, le=1)
    metrics: tuple[Measured, ...]
    data_time: Instant = Field(description="Data time at which it was measured.")
    final: bool = Field(default=True, description="False: an early value of a window that still waits for labels.")

    @property
    def discriminator(self) -> str:
        return f"{self.model}|{self.version}|{self.window.start.isoformat()}|{self.data_time.isoformat()}"
