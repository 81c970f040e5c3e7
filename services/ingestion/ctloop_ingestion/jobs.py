"""What ingestion does outside transactions: write a closed batch as one immutable, content-addressed Parquet."""

import asyncio
import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ctloop.events.errors import RejectedEvent
from ctloop.events.manifest import RecordSpec
from ctloop.events.staged import FAR, FIRST
from ctloop.platform.delivery import Edge
from ctloop.platform.jobs import Lease, runs
from ctloop.platform.pipelines import PREDICTIONS
from ctloop.platform.storage import Objects
from ctloop_ingestion.domain.bodies import count_rows, read_arrow, read_parquet, reference
from ctloop_ingestion.domain.staging import Part, arrow_part, broken_part, ndjson_parts, stage
from ctloop_ingestion.handlers import IngestionHandlers
from ctloop_ingestion.store import IngestionStore, KeptArrival
from ctloop_ingestion.work import BatchStaged, StageBatch

OBSERVED_AT = "observed_at"


class IngestionJobs:
    """The jobs of ingestion."""

    edge: Edge
    """Given by the composition root once the service is built; jobs read arrivals through it."""

    def __init__(self, store: IngestionStore, objects: Objects) -> None:
        self._store, self._objects = store, objects

    async def stage_batch(self, job: StageBatch, lease: Lease) -> BatchStaged:
        """Arrivals to Parquet. The same arrivals give the same bytes, so a repeat writes the same object."""
        async with self.edge.reading() as connection:
            records = await self._store.records(connection, job.dataset)
            arrivals = await self._store.arrivals_of(connection, job.dataset, job.number)
        fetched = [await self._fetch(one) for one in arrivals]
        wanted = None if job.dataset.endswith(PREDICTIONS) else columns_of(records)
        table = await asyncio.to_thread(_table, fetched, wanted)
        body = await asyncio.to_thread(parquet, table)
        ref = await self._objects.put_content(f"staged/{job.dataset}", body, format="parquet")
        first, last = times(table, records[0].time if records else "data_time")
        return BatchStaged(
            dataset=job.dataset,
            number=job.number,
            batch=ref,
            rows=table.num_rows,
            labels=labels(table, records),
            first_time=first,
            last_time=last,
            arrivals=tuple(one.id for one in arrivals),
        )

    async def _fetch(self, arrival: KeptArrival) -> tuple[KeptArrival, str, bytes, str]:
        """An arrival with its format and bytes, fetched where it is a reference; or why it could not be."""
        if arrival.format != "reference":
            return arrival, arrival.format, arrival.body, ""
        try:
            ref = reference(arrival.body)
            return arrival, ref.format, await self._objects.get(ref), ""
        except RejectedEvent as error:
            return arrival, "", arrival.body, f"{error.reason}: {error}"


def _table(fetched: Sequence[tuple[KeptArrival, str, bytes, str]], wanted: frozenset[str] | None) -> pa.Table:
    parts = [part for arrival, format, body, why in fetched for part in _parts(arrival, format, body, why, wanted)]
    return stage(parts, wanted)


def _parts(arrival: KeptArrival, format: str, body: bytes, why: str, wanted: frozenset[str] | None) -> Iterable[Part]:
    number, arrived = arrival.seq, arrival.arrived
    if why:
        return [broken_part(number, arrived, arrival.body, why)]
    try:
        if format == "ndjson":
            count_rows(format, body)
            return list(ndjson_parts(number, arrived, body, wanted or frozenset()))
        table = read_parquet(body) if format == "parquet" else read_arrow(body)
        return [arrow_part(number, arrived, table, wanted)]
    except RejectedEvent as error:
        return [broken_part(number, arrived, arrival.body, f"{error.reason}: {error}")]


def columns_of(records: Sequence[RecordSpec]) -> frozenset[str]:
    """What is kept of arrivals: the columns any record class over the dataset names, and when a label was observed."""
    fields = [field.name for record in records for field in record.fields]
    return frozenset([*fields, *(record.label.name for record in records if record.label), OBSERVED_AT])


def parquet(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def labels(table: pa.Table, records: Sequence[RecordSpec]) -> int:
    """Rows that bring a label."""
    name = next((record.label.name for record in records if record.label), None)
    if name is None or name not in table.column_names:
        return 0
    return table.num_rows - table.column(name).null_count


def times(table: pa.Table, name: str | None) -> tuple[datetime | None, datetime | None]:
    """Least and greatest event time of the rows whose time is one; None where it is text still."""
    if name is None or name not in table.column_names or not pa.types.is_timestamp(table.column(name).type):
        return None, None
    ticks = table.column(name).cast(pa.int64())
    sane: Any = pc.call_function("and", [pc.call_function("greater_equal", [ticks, pa.scalar(FIRST)]),
                                         pc.call_function("less", [ticks, pa.scalar(FAR)])])  # fmt: skip
    found: Any = pc.call_function("min_max", [table.column(name).filter(sane)])
    return found["min"].as_py(), found["max"].as_py()


RUNS = (runs(StageBatch, IngestionJobs.stage_batch, failed=IngestionHandlers.on_stage_failed, says=()),)
