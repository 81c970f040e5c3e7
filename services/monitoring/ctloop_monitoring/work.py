"""Monitoring's work outside transactions, and its timer."""

from datetime import timedelta
from typing import ClassVar

from pydantic import AwareDatetime

from ctloop.events.values import DatasetVersion, ObjectRef, Window
from ctloop.platform.jobs import Job, JobEnd, Timer
from ctloop_monitoring.domain.columns import LabelColumns


class ReadLabels(Job):
    """Read the accepted labels of a batch; of one dataset in order, so that data time never overtakes a label."""

    kind: ClassVar[str] = "read-labels"
    lane: ClassVar[str] = "labels"
    deadline: ClassVar[timedelta] = timedelta(minutes=2)
    max_attempts: ClassVar[int] = 100

    dataset: str
    number: int
    labels: ObjectRef | None
    data_time: AwareDatetime | None

    @property
    def lane_key(self) -> str:
        return self.dataset


class LabelsRead(JobEnd):
    """The labels of a batch; None: it had none, or they cannot be read for good."""

    dataset: str
    labels: LabelColumns | None
    data_time: AwareDatetime | None


class BuildReference(Job):
    """Bin the records a version was trained on."""

    kind: ClassVar[str] = "build-reference"
    lane: ClassVar[str] = "reference"
    deadline: ClassVar[timedelta] = timedelta(minutes=5)
    max_attempts: ClassVar[int] = 100

    model: str
    epoch: int
    pipeline_digest: str
    dataset: str
    dataset_version: DatasetVersion
    window: Window
    columns: tuple[str, ...]

    @property
    def lane_key(self) -> str:
        return self.model


class ReferenceBuilt(JobEnd):
    """The bins, JSON of ctloop.policy.drift."""

    model: str
    epoch: int
    reference: str


class LookAgain(Timer):
    """Close a window without waiting for predictions any longer, if nobody has predicted meanwhile."""

    kind: ClassVar[str] = "look-again"

    model: str
    end: AwareDatetime
    turn: int = 0
    """0 or 1: a timer that sets itself again must be another one, and no more than two are ever open."""
