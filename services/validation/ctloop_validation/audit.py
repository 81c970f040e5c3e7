"""The audit of one batch, from the staged Parquet to what goes where. Blocking; columns all the way."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctloop import columns
from ctloop.events.errors import Truncated
from ctloop.events.manifest import RecordSpec
from ctloop.events.staged import ARRIVED, RAW, SEQUENCE
from ctloop.platform.storage import INTERNAL, DatasetDigest, lanes_to_bytes, row_digests
from ctloop_validation.domain.examine import Examined, examine
from ctloop_validation.domain.predictions import probabilities
from ctloop_validation.domain.reading import Mask, compute
from ctloop_validation.domain.settle import Rows, Settled, newest, settle
from ctloop_validation.work import QuarantinedRow

SHOWN_ROWS = 200
SHOWN_CHARACTERS = 4000


@dataclass(frozen=True)
class Prepared:
    """A batch whose rows were read and checked by themselves; which ids were seen before is still to be asked."""

    staged: pa.Table
    examined: Examined
    ids: list[str | None]
    record_digests: list[bytes]
    label_digests: list[bytes]
    brings_record: Mask
    brings_label: Mask

    @property
    def asked(self) -> list[str]:
        """Ids that have to be looked up."""
        good = np.flatnonzero(~self.examined.findings.broken).tolist()
        return list({id: None for row in good if (id := self.ids[row]) is not None})


@dataclass(frozen=True)
class Outcome:
    """What becomes of the rows of a batch."""

    records: pa.Table
    labels: pa.Table | None
    settled: Settled
    digest: DatasetDigest
    data_time: datetime | None
    clock_suspect: int
    quarantine: pa.Table
    shown: tuple[QuarantinedRow, ...]
    known: tuple[list[str], list[bytes], list[str], list[bytes]]


def read_staged(body: bytes) -> pa.Table:
    """The staged batch.

    Raises:
        Truncated
    """
    try:
        return pq.read_table(io.BytesIO(body))
    except (pa.ArrowException, OSError) as error:
        raise Truncated(f"the staged batch is no whole Parquet file: {error}"[:300]) from error


def prepare(staged: pa.Table, record: RecordSpec) -> Prepared:
    """Read and check the rows by themselves; digest their content."""
    examined = examine(staged, record)
    if record.id_from_content:
        examined = _with_content_ids(examined, record)
    table = examined.records
    ids: list[str | None] = table.column(record.id).cast(pa.string()).to_pylist()
    content = row_digests(table.drop_columns(list(INTERNAL)), "record")
    rows = staged.num_rows
    brings_label = np.zeros(rows, np.bool_)
    labels: list[bytes] = []
    if examined.label is not None:
        brings_label = np.asarray(examined.label.is_valid().to_numpy(zero_copy_only=False), np.bool_)
        given = compute("if_else", pa.array(examined.observed_given), examined.observed_at, None)
        labels = lanes_to_bytes(row_digests(pa.table({"value": examined.label, "observed_at": given}), "label"))
    return Prepared(staged, examined, ids, lanes_to_bytes(content), labels, ~examined.is_part, brings_label)


def _with_content_ids(examined: Examined, record: RecordSpec) -> Examined:
    table = examined.records
    made = compute("coalesce", table.column(record.id).combine_chunks(), columns.content_ids(table, record))
    place = table.column_names.index(record.id)
    return Examined(
        table.set_column(place, record.id, made), examined.label, examined.observed_at, examined.observed_given,
        examined.is_part, examined.findings, examined.suspect,
    )  # fmt: skip


def finish(
    prepared: Prepared, record: RecordSpec, known_records: Mapping[str, bytes], known_labels: Mapping[str, bytes]
) -> Outcome:
    """Decide over ids and take the rows apart."""
    examined = prepared.examined
    masks = (prepared.brings_record, prepared.brings_label)
    settled = settle(
        prepared.ids, prepared.record_digests, prepared.label_digests, masks, examined.findings, known_records,
        known_labels,
    )  # fmt: skip
    records = examined.records.take(pa.array(settled.records))
    if (
        "probabilities" in prepared.staged.column_names and record.field("probabilities") is None
    ):  # of predictions, ours
        records = records.append_column("probabilities", probabilities(prepared.staged, settled.records))
    labels = None if examined.label is None else _labels(prepared, record, settled.labels)
    digest = DatasetDigest().add(row_digests(records.drop_columns(list(INTERNAL)), "record"))
    if labels is not None:
        digest = digest.add(row_digests(labels.drop_columns(["sequence"]), "label"))
    return Outcome(
        records=records,
        labels=labels,
        settled=settled,
        digest=digest,
        data_time=_data_time(examined, record, settled),
        clock_suspect=int(examined.suspect[settled.records].sum()),
        quarantine=_quarantine(prepared),
        shown=_shown(prepared),
        known=_known(prepared, settled),
    )


def _labels(prepared: Prepared, record: RecordSpec, rows: Rows) -> pa.Table:
    examined, index = prepared.examined, pa.array(rows)
    return pa.table(
        {
            "id": examined.records.column(record.id).take(index),
            "value": examined.label.take(index),
            "observed_at": examined.observed_at.take(index).cast(pa.timestamp("us", "UTC")),
            "sequence": examined.records.column(SEQUENCE).take(index),
        }
    )


def _data_time(examined: Examined, record: RecordSpec, settled: Settled) -> datetime | None:
    """How far data time comes with this batch. Times in the future of their arrival do not move it: one wrong clock
    must not close every window there is."""
    arrived = examined.records.column(ARRIVED).combine_chunks()
    times = [examined.records.column(record.time or ARRIVED).combine_chunks().take(pa.array(settled.records))]
    allowed = [arrived.take(pa.array(settled.records))]
    if len(settled.labels):
        times.append(examined.observed_at.take(pa.array(settled.labels)))
        allowed.append(arrived.take(pa.array(settled.labels)))
    found: list[datetime] = []
    five_minutes = pa.scalar(300_000_000, pa.duration("us"))
    for some, came in zip(times, allowed, strict=True):
        sane = some.filter(compute("less_equal", some, compute("add", came, five_minutes)))
        if (greatest := compute("max", sane).as_py()) is not None:
            found.append(greatest)
    return max(found) if found else None


def _known(prepared: Prepared, settled: Settled) -> tuple[list[str], list[bytes], list[str], list[bytes]]:
    def of(rows: Rows, digests: list[bytes]) -> tuple[list[str], list[bytes]]:
        return newest([prepared.ids[row] for row in rows.tolist()], [digests[row] for row in rows.tolist()])

    return (*of(settled.records, prepared.record_digests), *of(settled.labels, prepared.label_digests))


def _quarantine(prepared: Prepared) -> pa.Table:
    """Every refused row as it was staged, with its reasons."""
    findings = prepared.examined.findings
    rows = np.flatnonzero(findings.broken)
    table = prepared.staged.take(pa.array(rows))
    return table.append_column(
        "_reasons", pa.array([list(findings.reasons(row)) for row in rows.tolist()], pa.list_(pa.string()))
    )


def _shown(prepared: Prepared) -> tuple[QuarantinedRow, ...]:
    findings = prepared.examined.findings
    rows = np.flatnonzero(findings.broken)[:SHOWN_ROWS]
    table = _legible(prepared.staged.take(pa.array(rows)))
    return tuple(
        QuarantinedRow(sequence=row[SEQUENCE], reasons=findings.reasons(place), row=_text(row))
        for place, row in zip(rows.tolist(), table.to_pylist(), strict=True)
    )


def _legible(table: pa.Table) -> pa.Table:
    """Times as text: Arrow has years that Python has not."""
    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.string()))
    return table


def _text(row: Mapping[str, Any]) -> str:
    raw: bytes | None = row.get(RAW)
    if raw is not None:
        return raw[:SHOWN_CHARACTERS].decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    shown = {name: value for name, value in row.items() if not name.startswith("_") and value is not None}
    return json.dumps(shown, default=str, ensure_ascii=False).replace("\\u0000", "\\x00")[:SHOWN_CHARACTERS]


def parquet(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
