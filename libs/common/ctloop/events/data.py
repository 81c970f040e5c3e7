"""Facts about data: arrived, landed, validated. DataArrived carries columns, not JSON."""

from typing import ClassVar
from uuid import UUID

from pydantic import Field

from ctloop.events.envelope import ARROW_STREAM, DatasetEvent, Instant, ModelEvent
from ctloop.events.values import DatasetVersion, ObjectRef, RuleCount, Verdict

INLINE_LIMIT = 900 * 1024
"""Largest body in a data-plane event, in bytes; more is split by rows or sent as a reference."""


class DataArrived(DatasetEvent):
    """Records came: columns of the record class, whole or in part. The Kafka value is the body itself."""

    topic: ClassVar[str] = "data-arrived.v1"
    content_type: str = Field(default=ARROW_STREAM, description="Arrow stream, NDJSON, or JSON for a reference.")
    body: bytes = Field(description="The columns, or the JSON of an ObjectReference.")


class PredictionsServed(ModelEvent):
    """Predictions were answered. The Kafka value is an Arrow stream, columns in PREDICTION_COLUMNS and the inputs."""

    topic: ClassVar[str] = "predictions-served.v1"
    content_type: str = ARROW_STREAM
    body: bytes = Field(description="Arrow stream, one row per prediction.")

    @property
    def dataset(self) -> str:
        """The dataset predictions land in."""
        return f"{self.model}.predictions"


PREDICTION_COLUMNS = (
    "prediction_id",  # string, UUID
    "record_id",  # string or null: without it the prediction is never joined
    "version",  # int64
    "epoch",  # int64
    "output",  # float64: the value, or the probability of the last (positive) class
    "label",  # string or float64: the decision
    "probabilities",  # list<float64>, classes in the signature's order; null for regression
    "data_time",  # timestamp[us, UTC]: the request's time column, else the wall clock
    "served_at",  # timestamp[us, UTC]: wall clock
)
"""What monitoring joins on; the model's inputs follow under ``input.<column>``."""


class DataLanded(DatasetEvent):
    """A batch of arrivals is staged as one immutable Parquet object."""

    topic: ClassVar[str] = "data-landed.v1"
    batch: ObjectRef = Field(description="The staged Parquet.")
    number: int = Field(description="Number of the batch within the dataset, from 1.", ge=1)
    rows: int = Field(description="Rows in the batch, parts of records included.", ge=0)
    labels: int = Field(description="Rows that bring a label.", ge=0)
    first_time: Instant | None = Field(default=None, description="Least event time in the batch.")
    last_time: Instant | None = Field(default=None, description="Greatest event time in the batch.")
    arrivals: tuple[UUID, ...] = Field(description="Ids of the arrivals in it, in order; the last one completed it.")

    @property
    def discriminator(self) -> str:
        return self.batch.sha256


class DataValidated(DatasetEvent):
    """A batch was audited: the good rows are in the lake, the bad ones in quarantine."""

    topic: ClassVar[str] = "data-validated.v1"
    verdict: Verdict = Field(description="failed: nothing in the batch could be learned from.")
    batch: ObjectRef = Field(description="The staged Parquet that was audited.")
    number: int = Field(description="Number of the batch within the dataset.", ge=1)
    version: DatasetVersion = Field(description="The dataset after this batch.")
    records: ObjectRef | None = Field(default=None, description="Accepted records of this batch, Parquet.")
    labels: ObjectRef | None = Field(default=None, description="Accepted labels of this batch, Parquet.")
    rows: int = Field(description="Records accepted.", ge=0)
    labelled: int = Field(description="Labels accepted.", ge=0)
    duplicates: int = Field(default=0, description="Records seen before with the same content, dropped.", ge=0)
    quarantined: tuple[RuleCount, ...] = Field(default=(), description="Rows quarantined, by rule.")
    clock_suspect: int = Field(default=0, description="Records more than 5 minutes in the future, accepted.", ge=0)
    data_time: Instant | None = Field(
        default=None, description="Greatest accepted record time or label observed_at of the dataset so far."
    )
    report_uri: str = Field(description="The validation report, JSON.")

    @property
    def discriminator(self) -> str:
        return self.batch.sha256
