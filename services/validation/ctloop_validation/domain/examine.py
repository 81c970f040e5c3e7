"""The first pass over a staged batch: columns in the record's types, and the rules each row breaks by itself."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from ctloop.events.manifest import FieldSpec, RecordSpec
from ctloop.events.staged import ARRIVED, PROBLEM, ROWS_PER_ARRIVAL, SEQUENCE
from ctloop_validation.domain.reading import ARROW_TYPES, MICROS, Column, Mask, compute, mask, read_column
from ctloop_validation.domain.rules import Findings, broken_rules, time_bounds
from ctloop_validation.domain.suite import id_field

OBSERVED_AT = "observed_at"
FUTURE = timedelta(minutes=5)


@dataclass(frozen=True)
class Examined:
    """Rows in the record's types. ``records`` has the columns of the record class in order, ``_sequence``, ``_arrived``."""

    records: pa.Table
    label: Any
    """Typed label of each row, or None where the record class has none."""
    observed_at: Any
    """When the label was observed: what was sent with it, else the arrival."""
    observed_given: Mask
    is_part: Mask
    """Rows that bring a label only; the record came before or comes later."""
    findings: Findings
    suspect: Mask
    """Event times more than 5 minutes after the arrival."""


def examine(staged: pa.Table, record: RecordSpec) -> Examined:
    """Read and check every row by itself; ids are compared later."""
    rows = staged.num_rows
    findings = Findings(rows)
    _unreadable(staged, findings)
    columns = {field.name: read_column(_raw(staged, field), field.kind) for field in _fields(record)}
    label = None if record.label is None else read_column(_raw(staged, record.label), record.label.kind)
    parts = _parts(columns, label, record, rows)
    for field in _fields(record):
        is_id = field.name == record.id
        for rule, broken in broken_rules(columns[field.name], field, is_id=is_id):
            if not (is_id and record.id_from_content and rule.endswith("missing")):
                findings.add(rule, broken if is_id else broken & ~parts)
    if record.time is not None:
        for rule, broken in time_bounds(columns[record.time], record):
            findings.add(rule, broken & ~parts)
    observed, given = _observed(staged, record, findings)
    if label is not None and record.label is not None:
        optional = record.label.model_copy(update={"nullable": True})
        for rule, broken in broken_rules(label, optional):
            findings.add(rule, broken)
    arrived = staged.column(ARRIVED).combine_chunks()
    table = pa.table({name: column.values for name, column in columns.items()})
    order = arrived if record.time else _in_order(arrived, staged.column(SEQUENCE).combine_chunks())
    table = table.append_column(SEQUENCE, staged.column(SEQUENCE)).append_column(ARRIVED, order)
    suspect = _after(columns[record.time].values, arrived) if record.time else np.zeros(rows, np.bool_)
    return Examined(table, label and label.values, observed, given, parts, findings, suspect)


def _fields(record: RecordSpec) -> tuple[FieldSpec, ...]:
    fields = record.fields
    return fields if record.field(record.id) else (id_field(record), *fields)


def _raw(staged: pa.Table, field: FieldSpec) -> Any:
    if field.name in staged.column_names:
        return staged.column(field.name).combine_chunks()
    return pa.nulls(staged.num_rows, ARROW_TYPES[field.kind])


def _unreadable(staged: pa.Table, findings: Findings) -> None:
    """Rows that were never read: the reason is the one staging gives."""
    problems = staged.column(PROBLEM).combine_chunks()
    for reason in compute("unique", problems.drop_null()).to_pylist():
        findings.add(f"unreadable: {reason}"[:300], mask(compute("equal", problems, pa.scalar(reason))))


def _parts(columns: dict[str, Column], label: Column | None, record: RecordSpec, rows: int) -> Mask:
    """A row is a label alone when it brings one and no event time (no time column: nothing else at all)."""
    if label is None:
        return np.zeros(rows, np.bool_)
    present = ~label.missing
    if record.time is not None:
        return present & columns[record.time].missing
    for name, column in columns.items():
        if name != record.id:
            present &= column.missing
    return present


def _observed(staged: pa.Table, record: RecordSpec, findings: Findings) -> tuple[Any, Mask]:
    arrived = staged.column(ARRIVED).combine_chunks()
    if OBSERVED_AT not in staged.column_names or record.field(OBSERVED_AT) is not None:
        return arrived, np.zeros(len(arrived), np.bool_)
    column = read_column(staged.column(OBSERVED_AT), "time")
    findings.add(f"{OBSERVED_AT}: not a time", column.bad)
    return compute("coalesce", column.values, arrived.cast(MICROS)), mask(column.values.is_valid())


def _in_order(arrived: Any, sequence: Any) -> Any:
    """Where order of arrival is all the time there is, the rows of one arrival are a microsecond apart: what is learned from
    and what judges it are told apart by time."""
    row = np.asarray(sequence.to_numpy(zero_copy_only=False), np.int64) % ROWS_PER_ARRIVAL
    return compute("add", arrived, pa.array(row).cast(pa.duration("us")))


def _after(times: Any, arrived: Any) -> Mask:
    return mask(compute("greater", times, compute("add", arrived, pa.scalar(FUTURE))))
