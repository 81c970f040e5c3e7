"""The grid of data time, when a window closes, and what a version was worth in it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ctloop.events.values import Measured, Window
from ctloop.policy.losses import SKILL, Floats, Truth, measure

ORIGIN = datetime(1970, 1, 5, tzinfo=UTC)
"""A Monday; windows of a week start on Mondays, 00:00 UTC."""
LENGTHS = (
    timedelta(seconds=1), timedelta(seconds=10), timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1),
    timedelta(hours=6), timedelta(days=1), timedelta(days=7), timedelta(days=28),
)  # fmt: skip
ROWS = 2_000
"""Labelled rows a window should hold: enough for an interval of about a hundredth on a probability's loss."""


def window_length(training: Window) -> timedelta:
    """The shortest length that holds ROWS labelled rows at the rate of the training window.

    >>> start = datetime(2013, 1, 1, tzinfo=UTC)
    >>> window_length(Window(start=start, end=start + timedelta(days=28), rows=23_892)).days
    7
    """
    span = max((training.end - training.start).total_seconds(), 1e-6)
    rate = max(training.rows, 1) / span
    return next((one for one in LENGTHS if one.total_seconds() * rate >= ROWS), LENGTHS[-1])


def end_after(data_time: datetime, length: timedelta) -> datetime:
    """The first end of a window of the grid after a data time, at least one whole window later."""
    whole = (data_time - ORIGIN) // length + 1
    end = ORIGIN + whole * length
    return end if end - data_time >= length else end + length


def closes(end: datetime, data_time: datetime, served_until: datetime | None, *, idle: bool) -> bool:
    """Whether a window is over: data has passed its end, and predictions have too or nobody predicts any more."""
    return data_time >= end and (idle or (served_until is not None and served_until >= end))


def metric_names(metric: str, report: Sequence[str]) -> tuple[str, ...]:
    """What is measured of a model: its metric, the reported ones, and skill."""
    return tuple(dict.fromkeys((metric, *report, SKILL)))


def measure_window(
    metric: str, report: Sequence[str], outputs: Floats, truth: Truth, classes: int
) -> tuple[Measured, ...]:
    """The named metrics of a window's judged rows with their intervals; empty without rows."""
    return measure(metric_names(metric, report), outputs, truth, classes)
