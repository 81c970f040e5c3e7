"""The grid of data time, and the parts of labelled rows."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from ctloop.events.values import Window
from ctloop.policy.split import gate_rows, split
from ctloop.policy.windows import LENGTHS, ORIGIN, closes, end_after, window_length

START = datetime(2013, 1, 1, 10, 15, tzinfo=UTC)


@pytest.mark.parametrize(("rows", "days", "length"), [(23_892, 28, 7), (100_000, 28, 1), (500, 365, 28)])
def test_a_window_holds_enough_rows(rows: int, days: int, length: int) -> None:
    """The shortest length of the ladder that does; the longest where none does."""
    window = Window(start=START, end=START + timedelta(days=days), rows=rows)
    assert window_length(window) == timedelta(days=length)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_first_window_is_whole(length: timedelta) -> None:
    """It ends on the grid, at least one length and less than two after a data time."""
    end = end_after(START, length)
    assert (end - ORIGIN) % length == timedelta(0)
    assert length <= end - START < 2 * length


def test_a_window_waits_for_data_and_predictions() -> None:
    """Predictions lag behind data: it stays open, unless nobody predicts any more."""
    end = datetime(2013, 2, 4, tzinfo=UTC)
    before, after = end - timedelta(seconds=1), end
    assert closes(end, after, after, idle=False)
    assert not closes(end, before, after, idle=True)
    assert not closes(end, after, before, idle=False) and closes(end, after, before, idle=True)
    assert not closes(end, after, None, idle=False) and closes(end, after, None, idle=True)


@pytest.mark.parametrize(("labelled", "gate"), [(100, 20), (2_499, 499), (2_500, 500), (3_000, 600), (400_000, 20_000)])
def test_the_gate_gets_its_share(labelled: int, gate: int) -> None:
    """The newest fifth, at least 500 once there are 2,500 rows, at most 20,000."""
    assert gate_rows(labelled) == gate


@pytest.mark.parametrize("rows", [100, 101, 2_499, 2_500, 60_000, 150_000])
def test_every_row_has_one_use_and_the_newest_judge(rows: int) -> None:
    """Fit, search and gate are disjoint, complete, and in order of time whatever the order of the rows."""
    times = np.random.default_rng(rows).permutation(rows).astype(np.int64)
    parts = split(times)
    assert parts is not None
    assert sorted(np.concatenate([parts.fit, parts.search, parts.gate])) == list(range(rows))
    assert times[parts.fit].max() < times[parts.search].min() and times[parts.search].max() < times[parts.gate].min()
    assert len(parts.gate) == gate_rows(rows) and len(parts.final) == rows - gate_rows(rows)


def test_nothing_is_trained_below_a_hundred_rows() -> None:
    """The caller says so instead."""
    assert split(np.arange(99, dtype=np.int64)) is None
