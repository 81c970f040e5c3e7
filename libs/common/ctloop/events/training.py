"""Facts about training: decided, started, trained, failed."""

from typing import ClassVar, Literal
from uuid import UUID

from pydantic import Field

from ctloop.events.envelope import Instant, ModelEvent
from ctloop.events.values import (
    DatasetVersion,
    EvaluatedNode,
    Measured,
    ObjectRef,
    Parity,
    Resources,
    Signature,
    Window,
)


class RetrainDecided(ModelEvent):
    """Training decided that a retrain is worth it; its id is the loop's id."""

    topic: ClassVar[str] = "retrain-decided.v1"
    starts_loop: ClassVar[bool] = True
    decision_id: UUID = Field(description="Id of the decision.")
    action: Literal["retrain"] = "retrain"
    trigger: Literal["first-model", "performance", "drift", "condition", "heartbeat", "manual"]
    reason: str = Field(description="One sentence for people.", max_length=2000)
    tree: EvaluatedNode = Field(description="The condition with each node's value.")
    causes: tuple[UUID, ...] = Field(description="Ids of the facts it rests on; the last one completed it.")
    data_time: Instant = Field(description="Data time at which it was decided.")
    dataset: str
    dataset_version: DatasetVersion
    window: Window = Field(description="Data time of the records to learn from.")

    @property
    def discriminator(self) -> str:
        return str(self.decision_id)


class TrainingStarted(ModelEvent):
    """A run was taken up by a worker (said once per run)."""

    topic: ClassVar[str] = "training-started.v1"
    run_id: UUID
    decision_id: UUID
    dataset_version: DatasetVersion
    resources: Resources
    trials: int = Field(description="Trials of the search.", ge=1)


class ModelTrained(ModelEvent):
    """A run ended with a model in its inference form."""

    topic: ClassVar[str] = "model-trained.v1"
    run_id: UUID
    decision_id: UUID
    pipeline_digest: str = Field(description="Digest of the manifest it was trained under.")
    onnx: ObjectRef
    golden: ObjectRef = Field(description="Golden inputs and outputs, Arrow.")
    signature: Signature
    parity: Parity
    metrics: tuple[Measured, ...] = Field(description="On the search rows.")
    params: tuple[tuple[str, float | int | bool | str], ...] = Field(default=(), description="Chosen hyperparameters.")
    trials: int = Field(default=1, ge=1)
    dataset: str
    dataset_version: DatasetVersion
    training_window: Window = Field(description="Data time of the rows the final fit saw.")
    gate_window: Window = Field(description="Data time of the newest labelled rows, kept for the gates.")
    data_time: Instant | None = Field(
        default=None, description="Data time of the decision: labels observed later are not read, also by the gates."
    )
    capsule: ObjectRef
    mlflow_run_id: str | None = None
    user_seconds: float = Field(description="Wall time spent in the user's function.", ge=0)


FailureReason = Literal[
    "raised", "wrong-type", "time-limit", "out-of-memory", "export-failed", "parity", "no-data", "cancelled", "crashed"
]


class TrainingFailed(ModelEvent):
    """A run ended without a model."""

    topic: ClassVar[str] = "training-failed.v1"
    run_id: UUID
    decision_id: UUID
    reason: FailureReason
    message: str = Field(description="One sentence for people.", max_length=2000)
    log_tail: tuple[str, ...] = Field(default=(), description="Last lines of the run's log.")
    attempts: int = Field(ge=1)
