"""The audit of a batch as a value, and what it ends in."""

from datetime import timedelta
from typing import ClassVar

from pydantic import AwareDatetime

from ctloop.events.envelope import Value
from ctloop.events.manifest import RecordSpec
from ctloop.events.values import ObjectRef, RuleCount
from ctloop.platform.jobs import Job, JobEnd


class AuditBatch(Job):
    """Audit a staged batch and append what is good to the lake.

    The suite is in the job: a model file that is applied between two attempts cannot change what the second one accepts.
    """

    kind: ClassVar[str] = "audit-batch"
    lane: ClassVar[str] = "lake"
    deadline: ClassVar[timedelta] = timedelta(minutes=5)
    max_attempts: ClassVar[int] = 2000
    """Of up to a minute each: the store may be away for a day before a batch is given up."""
    dataset: str
    number: int
    batch: ObjectRef
    rows: int
    record: RecordSpec
    predictions: bool = False

    @property
    def lane_key(self) -> str:
        """Batches of a dataset are audited in order, one at a time: ids are unique over all of them."""
        return self.dataset


class QuarantinedRow(Value):
    """A row that was not accepted, for people to look at; the object of the batch has all of them."""

    sequence: int
    reasons: tuple[str, ...]
    row: str
    """JSON of the row, or its raw bytes as text; cut off at 4,000 characters."""


class BatchAudited(JobEnd):
    """What the audit found; the rows are in the lake already."""

    dataset: str
    number: int
    batch: ObjectRef
    records: ObjectRef | None
    labels: ObjectRef | None
    quarantine: ObjectRef | None
    rows: int
    labelled: int
    duplicates: int
    quarantined: tuple[RuleCount, ...]
    shown: tuple[QuarantinedRow, ...]
    clock_suspect: int
    data_time: AwareDatetime | None
    records_version: int
    labels_version: int
    digest_first: int
    digest_second: int
    digest_rows: int
    """What this batch adds to the running digest of the dataset."""
    table_schema: str
    report: ObjectRef
    record_ids: list[str]
    record_digests: list[bytes]
    label_ids: list[str]
    label_digests: list[bytes]
    """Newest content per id, to recognise repeats."""
