"""Values several facts share: references to objects, versions, windows, measured numbers."""

from enum import StrEnum
from typing import NewType
from uuid import UUID

from pydantic import Field

from ctloop.events.envelope import Instant, Value

RunId = NewType("RunId", UUID)
Digest = NewType("Digest", str)
"""sha256 in lower-case hex."""


class Verdict(StrEnum):
    """The outcome of a check of data or of a model."""

    PASSED = "passed"
    FAILED = "failed"


class ObjectRef(Value):
    """An immutable object in the store, named by its content."""

    uri: str = Field(description="s3://bucket/key", max_length=1000)
    sha256: str = Field(description="Of the bytes, lower-case hex.", pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(description="Size in bytes.", ge=0)
    format: str = Field(default="", description="parquet, arrow, ndjson, onnx, json, ...", max_length=40)


class DatasetVersion(Value):
    """An immutable state of a dataset: both Delta tables at one moment."""

    n: int = Field(description="Our number; rises with each accepted batch.", ge=0)
    digest: str = Field(description="Running digest of row contents, schema and count; compaction keeps it.")
    records_version: int = Field(description="Delta version of the table of records; -1: no such table yet.", ge=-1)
    labels_version: int = Field(description="Delta version of the table of labels; -1: no such table yet.", ge=-1)


class Window(Value):
    """A span of data time, half open, with what is in it."""

    start: Instant = Field(description="First data time in the window.")
    end: Instant = Field(description="End of the window, exclusive; for training windows the last record's time.")
    rows: int = Field(default=0, description="Rows (labelled rows where labels matter).", ge=0)


class Measured(Value):
    """A metric's value, with its interval where one was computed."""

    name: str = Field(description="Name of the metric, e.g. log_loss.")
    value: float = Field(description="Its value.")
    low: float | None = Field(default=None, description="Lower end of the 95 % interval.")
    high: float | None = Field(default=None, description="Upper end of the 95 % interval.")


class RuleCount(Value):
    """Rows one rule put in quarantine."""

    rule: str = Field(description="The rule as the record class says it, e.g. distance: greater than 0.")
    rows: int = Field(ge=0)


class Column(Value):
    """One input or output of a model."""

    name: str
    kind: str = Field(description="number, boolean, text or time (int64 microseconds since the epoch, UTC).")


class Signature(Value):
    """What the ONNX form takes (one input per column, shape [N, 1]) and gives."""

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]
    classes: tuple[str, ...] = Field(default=(), description="Class names in the order of the probabilities.")


class Parity(Value):
    """How far the ONNX form is from the estimator it was made of."""

    rows: int = Field(description="Rows compared.", ge=0)
    largest_difference: float = Field(description="Largest absolute difference of outputs.", ge=0)
    flipped: int = Field(description="Rows whose decision differs.", ge=0)


class EvaluatedNode(Value):
    """A node of a condition with the value it had when it was evaluated; None is unknown."""

    text: str = Field(description="The node as the user would write it.")
    op: str
    value: float | bool | str | None = None
    note: str = ""
    args: tuple["EvaluatedNode", ...] = ()


class GateResult(Value):
    """One promotion gate with both sides' values."""

    name: str
    passed: bool
    candidate: float | None = None
    champion: float | None = None
    note: str = ""
    tree: EvaluatedNode | None = None


class FeatureScore(Value):
    """How far one feature is from the reference of the deployed version."""

    name: str
    score: float = Field(description="Population stability index.")
    missing: float = Field(default=0.0, description="Share of missing values now.")
    reference_missing: float = Field(default=0.0, description="Share of missing values in the reference.")
    new_categories: int = Field(default=0, ge=0)


class TrafficShare(Value):
    """How much of the traffic a version gets."""

    version: int = Field(ge=1)
    percent: float = Field(ge=0, le=100)


class Resources(Value):
    """What a run asks of Ray."""

    cpus: float = Field(default=1.0, gt=0)
    gpus: float = Field(default=0.0, ge=0)
    gpu_mib: int | None = Field(default=None, description="GPU memory in MiB.")
    memory_bytes: int | None = Field(default=None, description="Main memory in bytes.")
