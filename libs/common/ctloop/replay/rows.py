"""A user's table as a replay sees it: good rows in order of event time, with the time each label became known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ctloop import columns
from ctloop.events.manifest import FieldSpec, RecordSpec
from ctloop.policy.windows import ORIGIN
from ctloop.problems import Problem, did_you_mean

pc: Any = pyarrow.compute  # its functions are made at import and have no types

OBSERVED = "observed_at"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
"""Arrow has times before and after; nobody else has."""
MICROSECOND = timedelta(microseconds=1)
NEVER = np.iinfo(np.int64).max
"""The label is not in the table."""
Times = NDArray[np.int64]


def micros(time: datetime) -> int:
    """Microseconds since the epoch."""
    return (time - EPOCH) // MICROSECOND


def moment(micros: int) -> datetime:
    """The time of so many microseconds since the epoch."""
    return EPOCH + int(micros) * MICROSECOND


@dataclass(frozen=True)
class Rows:
    """Good rows in order of event time."""

    table: pa.Table
    """The record's columns and the label."""
    X: Any
    """What the fit function sees, a pandas frame."""
    y: NDArray[Any]
    """Class index or value; of no meaning where the label is never known."""
    times: Times
    """Event time, microseconds."""
    known: Times
    """When the label became known, microseconds; NEVER: it does not."""
    classes: tuple[str, ...]
    dropped: int


def rows_of(table: pa.Table, spec: RecordSpec, label_delay: timedelta) -> Rows:
    """Conform a table to a record class. No time column: one row a second, in the table's order.

    Raises:
        Problem: CT2001, no time column; CT2003, no label column; CT2002, a column cannot be cast.
    """
    if spec.label is None or spec.label.name not in table.column_names:
        raise Problem("CT2003", "the table has no label column" if spec.label else "the record class has no label")
    if spec.time and spec.time not in table.column_names:
        raise Problem("CT2001", f"the table has no column {spec.time!r}", did_you_mean(spec.time, table.column_names))
    observed = _observed(table)
    own = columns.conform(table, spec)
    times = columns.times(own.column(spec.time)) if spec.time else _in_order(table.num_rows)
    labelled = own.column(spec.label.name).is_valid().to_numpy()
    known = np.where(labelled, np.maximum(times, observed) if observed is not None else times + _us(label_delay), NEVER)
    good = _good(own, spec) & (times >= micros(FIRST)) & (times <= micros(LAST))
    order = np.flatnonzero(good)[np.argsort(times[good], kind="stable")]
    order = order[_first_of_each(own, spec, order)]
    kept, known = own.take(order), known[order]
    classes = columns.classes(kept, spec)
    y = np.zeros(len(order), np.int64 if classes else np.float64)
    have = np.flatnonzero(known < NEVER)
    y[have] = columns.target(kept.take(have), spec, classes)
    return Rows(kept, columns.to_frame(kept, spec), y, times[order], known, classes, table.num_rows - len(order))


def _observed(table: pa.Table) -> Times | None:
    if OBSERVED not in table.column_names:
        return None
    try:
        return np.clip(columns.times(table.column(OBSERVED)), micros(FIRST), micros(LAST))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Problem("CT2002", f"{OBSERVED}: {error}"[:500]) from error


def _in_order(rows: int) -> Times:
    return micros(ORIGIN) + np.arange(rows, dtype=np.int64) * 1_000_000


def _us(duration: timedelta) -> int:
    return duration // MICROSECOND


def _first_of_each(own: pa.Table, spec: RecordSpec, order: Times) -> NDArray[np.int64]:
    """An id seen before is no new record."""
    if spec.id_from_content or spec.id not in own.column_names:
        return np.arange(len(order))
    encoded = pc.dictionary_encode(own.column(spec.id).combine_chunks().take(pa.array(order)))
    _, first = np.unique(encoded.indices.to_numpy(zero_copy_only=False), return_index=True)
    return np.sort(first)


def _good(own: pa.Table, spec: RecordSpec) -> NDArray[np.bool_]:
    """Rows that keep the rules of the record class; the rest is what validation puts in quarantine."""
    good = np.ones(own.num_rows, bool)
    for field in (*spec.fields, *((spec.label,) if spec.label else ())):
        if field.name in own.column_names:
            good &= _keeps(own.column(field.name), field, may_miss=field.nullable or field is spec.label)
    return good


def _keeps(column: Any, field: FieldSpec, *, may_miss: bool) -> NDArray[np.bool_]:
    missing = np.asarray(column.is_null(nan_is_null=True).to_numpy(), bool)
    kept = np.ones(len(column), bool)
    if field.kind in ("number", "integer"):
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        for bound, holds in _bounds(field).items():
            kept &= holds(values, bound)
    if field.allowed is not None:
        allowed = pa.array([str(one) for one in field.allowed], pa.string())
        kept &= pc.is_in(columns.label_words(column), value_set=allowed).to_numpy(zero_copy_only=False).astype(bool)
    return np.where(missing, may_miss, kept)


def _bounds(field: FieldSpec) -> Mapping[float, Callable[[Any, float], Any]]:
    rules = ((field.gt, np.greater), (field.ge, np.greater_equal), (field.lt, np.less), (field.le, np.less_equal))
    return {bound: holds for bound, holds in rules if bound is not None}
