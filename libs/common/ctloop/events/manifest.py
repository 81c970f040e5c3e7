"""The manifest a model file compiles to; what every service reads instead of Python."""

import hashlib
import json
from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from ctloop.events.envelope import Value
from ctloop.events.values import ObjectRef, Resources

NAME = r"^[a-z][a-z0-9_]*(?:-[a-z0-9_]+)*$"

ColumnKind = Literal["string", "integer", "number", "boolean", "time"]


class FieldSpec(Value):
    """One column of the record class: its type and the rules a row must keep."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)
    kind: ColumnKind
    nullable: bool = False
    allowed: tuple[str | int, ...] | None = Field(
        default=None, description="Levels of a Literal; anything else is bad."
    )
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    max_length: int | None = Field(default=None, description="Of a string, in characters.")
    doc: str = ""


class DerivedSpec(Value):
    """A column computed from others, the same way for training and serving."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)
    kind: Literal["integer", "number", "boolean"]
    expression: str = Field(description="E.g. minute_of_day(departs).", max_length=500)


class RecordSpec(Value):
    """The record class: topic schema, validation suite, serving signature and docs in one."""

    dataset: str = Field(pattern=NAME, max_length=200)
    doc: str = ""
    id: str = Field(description="The column that names the occurrence.")
    id_from_content: bool = Field(default=False, description="No id column in the source: the row's digest is the id.")
    time: str | None = Field(description="The column of event time; None: arrival order, schedule only.")
    fields: tuple[FieldSpec, ...] = Field(description="All columns in order but the label and derived ones.")
    derived: tuple[DerivedSpec, ...] = ()
    label: FieldSpec | None = None
    earliest: str | None = Field(default=None, description="ISO time before which a record's time is refused.")
    latest: str | None = Field(default=None, description="ISO time after which a record's time is refused.")

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        """What the compiler makes always does; anybody may POST a manifest."""
        names = [one.name for one in (*self.fields, *self.derived, *((self.label,) if self.label else ()))]
        if len(set(names)) < len(names):
            raise ValueError("two columns have one name")
        if not self.id_from_content and self.id not in names:
            raise ValueError(f"the id {self.id[:100]!r} is no column")
        if self.time is not None and ((found := self.field(self.time)) is None or found.kind != "time"):
            raise ValueError(f"the time {self.time[:100]!r} is no column of times")
        for bound in (self.earliest, self.latest):
            if bound is not None:
                datetime.fromisoformat(bound)
        return self

    def field(self, name: str) -> FieldSpec | None:
        """The field of that name, the label included."""
        every = (*self.fields, self.label) if self.label else self.fields
        return next((one for one in every if one.name == name), None)

    @property
    def inputs(self) -> tuple[FieldSpec | DerivedSpec, ...]:
        """The columns of X in their order: fields without id and times, then derived ones."""
        return (*(one for one in self.fields if one.name != self.id and one.kind != "time"), *self.derived)


class ParameterSpec(Value):
    """A hyperparameter with its range."""

    name: str
    kind: Literal["integer", "real", "log", "choice"]
    low: float | None = None
    high: float | None = None
    choices: tuple[str | int | float | bool, ...] = ()


class ConditionSpec(Value):
    """A condition as the user wrote it and the tree it compiles to (ctloop.policy.conditions, to_json)."""

    text: str = Field(max_length=1000)
    tree: str = Field(description="Canonical JSON of the tree.")


class RetrainSpec(Value):
    """When to retrain; the default policy needs no line of the user."""

    condition: ConditionSpec | None = Field(default=None, description="Overrides the default policy's condition.")
    cooldown_seconds: float | None = Field(default=None, description="Data time between two runs; None: derived.", ge=0)
    runs_per_day: int | None = Field(default=None, description="Budget per day of data time.", ge=0)
    loops_without_gain: int = Field(default=5, description="Runs in a row, within a day, that may bring nothing.", ge=1)


class Manifest(Value):
    """One version of a pipeline: declaration in full, code by digest."""

    schema_version: Literal[1] = 1
    model: str = Field(pattern=NAME, max_length=200)
    doc: str = ""
    owner: str = ""
    task: Literal["classification", "regression"]
    record: RecordSpec
    metric: str = Field(description="The metric that decides: log_loss, rmse (squared error) or mae.")
    report: tuple[str, ...] = Field(default=(), description="Metrics that are shown.")
    parameters: tuple[ParameterSpec, ...] = ()
    trials: int = Field(
        default=6, description="Trials of the search; 1 when there is nothing to search.", ge=1, le=1000
    )
    seed: int = 0
    time_limit_seconds: float = Field(default=600.0, description="For one call of the user's function.", gt=0)
    resources: Resources = Resources()
    autonomy: Literal["watch", "propose", "act"] = "act"
    gates: tuple[ConditionSpec, ...] = ()
    retrain: RetrainSpec = RetrainSpec()
    rollback: ConditionSpec | None = None
    module: str = Field(description="Module of the bundle that declares the model.")
    function: str = Field(description="Name of the fit function in it.")
    bundle: ObjectRef = Field(description="zip of the user's source.")
    python: str = Field(description="major.minor it was compiled with.")

    def canonical(self) -> bytes:
        """The bytes the digest is made of: sorted keys, no spaces; the bundle by its content, wherever it is stored."""
        body = self.model_dump(mode="json")
        del body["bundle"]["uri"]
        return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @property
    def digest(self) -> str:
        """sha256 of the canonical form; names the pipeline version."""
        return hashlib.sha256(self.canonical()).hexdigest()
