"""Inputs in the bins of the training window: the reference once, then counts per window of data time."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from ctloop.policy.decide import MAX_ROWS
from ctloop.policy.drift import Counts, Reference
from ctloop_monitoring.domain.columns import DATA_TIME, OUTPUT

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def reference(table: pa.Table, columns: Sequence[str]) -> str:
    """Bins of the newest rows of the training window, as JSON."""
    table = table.slice(max(0, table.num_rows - MAX_ROWS))
    there = [name for name in columns if name in table.column_names]
    return Reference.of(as_served(table.select(there)), there).to_json()


def count(reference: str, held: str | None, part: pa.Table) -> str:
    """What a window holds, with these predictions added, as JSON."""
    bins = Reference.from_json(reference)
    counts = Counts.from_json(held) if held is not None else Counts.empty(bins)
    return counts.add(part.drop_columns([DATA_TIME, OUTPUT]), bins).to_json()


def by_window(table: pa.Table, first_end: datetime, step: timedelta) -> dict[datetime, pa.Table]:
    """Predictions by the end of the window of their data time; those before the first window are left out."""
    width = step // timedelta(microseconds=1)
    first = (first_end - EPOCH) // timedelta(microseconds=1)
    at = table.column(DATA_TIME).cast(pa.int64()).to_numpy()
    place = (at - (first - width)) // width
    found: dict[datetime, pa.Table] = {}
    for one in np.unique(place[place >= 0]).tolist():
        found[first_end + one * step] = table.filter(pa.array(place == one))
    return found


def as_served(table: pa.Table) -> pa.Table:
    """Values as serving sees them: numbers in 32 bits, truth as 0 and 1, the empty text missing."""
    columns: dict[str, pa.ChunkedArray] = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            column = column.cast(pa.float32(), safe=False)
        columns[name] = column
    return pa.table(columns)
