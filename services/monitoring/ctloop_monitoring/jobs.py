"""What monitoring does outside transactions: read accepted labels, bin the training window of a deployed version."""

import asyncio
import io
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from ctloop.events.errors import Truncated
from ctloop.platform.jobs import Lease, runs
from ctloop.platform.storage import Lake, Objects
from ctloop_monitoring.domain import bins
from ctloop_monitoring.domain.columns import label_columns
from ctloop_monitoring.handlers import MonitoringHandlers
from ctloop_monitoring.work import BuildReference, LabelsRead, ReadLabels, ReferenceBuilt

MOMENT = timedelta(microseconds=1)
"""A training window ends with its last record; the lake reads records up to an end that is exclusive, and labels up to
one that is inclusive."""


class MonitoringJobs:
    """The jobs of monitoring. User code never runs here."""

    def __init__(self, objects: Objects, lake: Lake) -> None:
        self._objects, self._lake = objects, lake

    async def read_labels(self, job: ReadLabels, lease: Lease) -> LabelsRead:
        """The accepted labels of one batch."""
        if job.labels is None:
            return LabelsRead(dataset=job.dataset, labels=None, data_time=job.data_time)
        body = await self._objects.get(job.labels)
        found = await asyncio.to_thread(_read_parquet, body)
        return LabelsRead(dataset=job.dataset, labels=label_columns(found), data_time=job.data_time)

    async def build_reference(self, job: BuildReference, lease: Lease) -> ReferenceBuilt:
        """Bin the records the version learned from."""
        reference = await asyncio.to_thread(self._build, job)
        return ReferenceBuilt(model=job.model, epoch=job.epoch, reference=reference)

    def _build(self, job: BuildReference) -> str:
        """Those of the window whose label was known at its end, as a replay takes them; without any, all of it."""
        table = self._read(job, labelled=True)
        if not table.num_rows:
            table = self._read(job, labelled=False)
        return bins.reference(table, job.columns)

    def _read(self, job: BuildReference, *, labelled: bool) -> pa.Table:
        return self._lake.read(
            job.dataset,
            job.dataset_version,
            columns=job.columns,
            as_of=job.window.end - MOMENT,
            since=job.window.start,
            until=job.window.end + MOMENT,
            labelled=labelled,
        )


def _read_parquet(body: bytes) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(body))
    except (pa.ArrowInvalid, OSError) as error:
        raise Truncated(f"labels: no whole Parquet file: {error}"[:300]) from error


RUNS = (
    runs(ReadLabels, MonitoringJobs.read_labels, failed=MonitoringHandlers.on_labels_unreadable),
    runs(BuildReference, MonitoringJobs.build_reference, failed=MonitoringHandlers.on_reference_failed),
)
