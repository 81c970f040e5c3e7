"""The jobs of ingestion as values: a timer, the staging of a batch, and what it ends in."""

from datetime import timedelta
from typing import ClassVar
from uuid import UUID

from pydantic import AwareDatetime

from ctloop.events.values import ObjectRef
from ctloop.platform.jobs import Job, JobEnd, Timer


class CloseBatch(Timer):
    """A batch does not wait for more."""

    kind: ClassVar[str] = "close-batch"
    dataset: str
    number: int


class StageBatch(Job):
    """Write a closed batch as one Parquet object."""

    kind: ClassVar[str] = "stage-batch"
    lane: ClassVar[str] = "stage"
    deadline: ClassVar[timedelta] = timedelta(minutes=5)
    max_attempts: ClassVar[int] = 2000
    """Of up to a minute each: the store may be away for a day before a batch is set aside."""
    dataset: str
    number: int

    @property
    def lane_key(self) -> str:
        """Batches of a dataset land in order."""
        return self.dataset


class BatchStaged(JobEnd):
    """A batch is an object."""

    dataset: str
    number: int
    batch: ObjectRef
    rows: int
    labels: int
    first_time: AwareDatetime | None
    last_time: AwareDatetime | None
    arrivals: tuple[UUID, ...]
