"""The rows of a run: what is fitted, what the search is judged on, and what is left for the gates."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from ctloop.events.values import Window
from ctloop.policy.split import split

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Parts:
    """Labelled rows by their use, each in order of time. The gate's rows are never given to the user's function."""

    fit: pa.Table
    search: pa.Table
    final: pa.Table
    """Fit and search rows: what the final fit learns from."""
    final_window: Window
    gate_window: Window


def parts_of(table: pa.Table, time: str, max_rows: int | None) -> Parts | None:
    """Split labelled rows by a column of times; None when they are too few. ``max_rows``: the newest so many."""
    if max_rows is not None and table.num_rows > max_rows:
        table = table.slice(table.num_rows - max_rows)
    times = table.column(time).cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    found = split(times)
    if found is None:
        return None
    return Parts(
        fit=table.take(found.fit),
        search=table.take(found.search),
        final=table.take(found.final),
        final_window=window(times[found.final]),
        gate_window=window(times[found.gate]),
    )


def window(times: np.ndarray) -> Window:
    """From the first to just after the last of some times in microseconds."""
    first, last = (EPOCH + int(one) * MICROSECOND for one in (times.min(), times.max()))
    return Window(start=first, end=last + MICROSECOND, rows=len(times))
