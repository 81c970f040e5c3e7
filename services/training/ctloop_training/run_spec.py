"""What travels between the service, the driver and the Ray task: the specification of a run and what is said of it."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field, TypeAdapter

from ctloop.events.envelope import Value
from ctloop.events.manifest import Manifest
from ctloop.events.training import FailureReason
from ctloop.events.values import DatasetVersion, Measured, ObjectRef, Parity, Signature, Window
from ctloop.platform.settings import S3Settings

ParameterValue = bool | int | float | str
Params = tuple[tuple[str, ParameterValue], ...]


class Trial(Value):
    """A finished trial of the search."""

    number: int = Field(ge=0)
    params: Params
    value: float | None = Field(description="The deciding metric on the search rows, less is better; None: it failed.")
    metrics: tuple[Measured, ...] = Field(default=(), description="All named metrics on the search rows.")
    seconds: float = Field(description="Wall time in the user's function.", ge=0)


class RunSpec(Value):
    """Everything a run depends on. The same specification gives the same model."""

    run_id: UUID
    decision_id: UUID
    manifest: Manifest
    pipeline_digest: str
    dataset_version: DatasetVersion
    data_time: AwareDatetime = Field(description="Labels observed later are not read.")
    window: Window = Field(description="Records to learn from, by event time.")
    max_rows: int | None = Field(default=None, description="The newest so many labelled rows at most.")
    causes: tuple[UUID, ...] = Field(default=(), description="Facts the decision rests on.")
    cause: str = Field(description="Why: the decision's trigger and sentence.", max_length=2500)


class RunOrder(Value):
    """A run and where this attempt of it writes."""

    spec: RunSpec
    store: S3Settings = Field(description="Keys stay in a file that only the service's user reads.")
    prefix: str = Field(description="Of every object this attempt writes.")
    trials: tuple[Trial, ...] = Field(default=(), description="Finished under an earlier fence.")
    traceparent: str | None = None
    loop_id: UUID | None = None


class WarmOrder(Value):
    """A user's module to have loaded before the first run."""

    manifest: Manifest
    store: S3Settings


class Progress(Value):
    """Where a run is: shown to people, kept in the lease."""

    event: Literal["progress"] = "progress"
    stage: Literal["waiting", "reading", "search", "final", "checking", "writing"]
    trial: int = 0
    trials: int = 0
    finished: Trial | None = Field(default=None, description="The trial that has just ended.")


OnProgress = Callable[[Progress], Awaitable[None]]


class Trained(Value):
    """A run ended with a model."""

    event: Literal["trained"] = "trained"
    onnx: ObjectRef
    golden: ObjectRef
    capsule: ObjectRef
    signature: Signature
    parity: Parity
    metrics: tuple[Measured, ...]
    params: Params
    trials: int = Field(ge=1)
    training_window: Window
    gate_window: Window
    user_seconds: float = Field(ge=0)


class Failed(Value):
    """A run ended without a model, for a reason that trying again does not change."""

    event: Literal["failed"] = "failed"
    reason: FailureReason
    message: str = Field(max_length=2000)
    log_tail: tuple[str, ...] = ()


class Lost(Value):
    """The run was cut off by what it runs on; it may be tried again."""

    event: Literal["lost"] = "lost"
    message: str = Field(max_length=2000)


Message = Annotated[Progress | Trained | Failed | Lost, Field(discriminator="event")]
MESSAGE: TypeAdapter[Progress | Trained | Failed | Lost] = TypeAdapter(Message)


class Request(Value):
    """What the service asks the driver, one JSON object per line."""

    op: Literal["run", "warm", "cancel"]
    id: str
    order: RunOrder | None = Field(default=None, description="Of run.")
    warm: WarmOrder | None = Field(default=None, description="Of warm.")


class Reply(Value):
    """What the driver says of a request, one JSON object per line."""

    id: str
    message: Message
