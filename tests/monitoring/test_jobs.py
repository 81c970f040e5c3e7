"""Monitoring's jobs on a real object store and lake."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctloop.events.errors import Truncated
from ctloop.events.values import DatasetVersion, ObjectRef, Window
from ctloop.platform.settings import S3Settings
from ctloop.platform.storage import ARRIVED, SEQUENCE, Lake, Objects, Roles
from ctloop.policy.drift import Reference
from ctloop_monitoring.jobs import MonitoringJobs
from ctloop_monitoring.work import BuildReference, ReadLabels

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]
START = datetime(2013, 1, 1, tzinfo=UTC)
MICROS = pa.timestamp("us", "UTC")
LEASE: Any = None
"""These jobs ask nothing of their lease."""


@pytest.fixture
def settings(s3: Any) -> S3Settings:
    """The session's object store."""
    return S3Settings(endpoint=s3.endpoint, keys_file=s3.keys_file, bucket=s3.bucket)


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def job(labels: ObjectRef | None) -> ReadLabels:
    return ReadLabels(dataset="d", number=1, labels=labels, data_time=START)


@pytest.mark.parametrize(
    ("values", "words", "numbers"),
    [
        (pa.array([True, False, None]), ["true", "false"], [None, None]),
        (pa.array(["b", "a", None]), ["b", "a"], [None, None]),
        (pa.array([1.5, float("nan"), None]), [None, None], [1.5, None]),
        (pa.array([3, 4, None]), ["3", "4"], [3.0, 4.0]),
    ],
)
async def test_labels_are_read(settings: S3Settings, values: Any, words: Any, numbers: Any) -> None:
    """Labels of each type become classes or numbers; what is null or not finite is none."""
    table = pa.table(
        {
            "id": ["x", "y", "z"],
            "value": values,
            "observed_at": pa.array([START] * 3, MICROS),
            "sequence": pa.array([1, 2, 3], pa.int64()),
        }
    )
    async with Objects(settings) as objects:
        ref = await objects.put_content("labels", parquet(table), format="parquet")
        done = await MonitoringJobs(objects, Lake(settings)).read_labels(job(ref), LEASE)
    assert done.labels is not None
    assert (done.labels.record_ids, done.labels.words, done.labels.numbers) == (["x", "y"], words, numbers)
    assert done.data_time == START


async def test_a_batch_without_labels_moves_the_clock_only(settings: S3Settings) -> None:
    """No object to read: data time travels on."""
    async with Objects(settings) as objects:
        done = await MonitoringJobs(objects, Lake(settings)).read_labels(job(None), LEASE)
    assert (done.labels, done.data_time) == (None, START)


async def test_what_is_no_parquet_is_refused(settings: S3Settings) -> None:
    """The bytes are those that were referenced, and no whole file."""
    async with Objects(settings) as objects:
        ref = await objects.put_content("labels", b"PAR1 nothing", format="parquet")
        with pytest.raises(Truncated):
            await MonitoringJobs(objects, Lake(settings)).read_labels(job(ref), LEASE)


@pytest.mark.parametrize("labelled", [True, False])
async def test_the_reference_is_the_training_window(settings: S3Settings, labelled: bool) -> None:
    """Records inside the window whose label was known at its end, or all of them; the rest of the lake stays out."""
    lake, rows, name = Lake(settings), 400, f"reference-of-{labelled}".lower()
    times = [START + timedelta(hours=one) for one in range(rows)]
    records = pa.table(
        {
            "flight": [str(one) for one in range(rows)],
            "departs": pa.array(times, MICROS),
            "temp": np.arange(rows, dtype=np.float64),
            "carrier": ["UA" if one % 2 else "AA" for one in range(rows)],
            SEQUENCE: pa.array(range(rows), pa.int64()),
            ARRIVED: pa.array(times, MICROS),
        }
    )
    labels = pa.table(
        {
            "id": records["flight"],
            "value": [True] * rows,
            "observed_at": pa.array([one + timedelta(minutes=5) for one in times], MICROS),
            "sequence": records[SEQUENCE],
        }
    )
    appended = lake.append(name, records, labels if labelled else None, 1, roles=Roles("flight", "departs", "late"))
    async with Objects(settings) as objects:
        done = await MonitoringJobs(objects, lake).build_reference(
            BuildReference(
                model="m",
                epoch=1,
                pipeline_digest="p",
                dataset=name,
                dataset_version=DatasetVersion(
                    n=1,
                    digest="d",
                    records_version=appended.records_version,
                    labels_version=appended.labels_version,
                ),
                window=Window(start=times[100], end=times[199], rows=100),
                columns=("temp", "carrier", "gone"),
            ),
            LEASE,
        )
    reference = Reference.from_json(done.reference)
    assert reference.rows == (99 if labelled else 100)  # the last one's label came after the end
    assert [one.name for one in reference.features] == ["temp", "carrier"]
    assert sorted(reference.features[1].counts[:2]) == ([49, 50] if labelled else [50, 50])
