"""Fit, search and gate rows by event time: the newest rows judge, the ones before choose, the rest is learned from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMALLEST = 100
"""Labelled rows below which nothing is trained."""
GATE_SHARE = 0.2
GATE_MOST, GATE_LEAST = 20_000, 500
FEW = 2_500
"""Labelled rows below which the gate's share alone counts."""


@dataclass(frozen=True)
class Split:
    """Row numbers of each part, in order of time."""

    fit: NDArray[np.int64]
    search: NDArray[np.int64]
    gate: NDArray[np.int64]

    @property
    def final(self) -> NDArray[np.int64]:
        """What the final fit learns from, after the search."""
        return np.concatenate([self.fit, self.search])


def gate_rows(labelled: int) -> int:
    """How many of the newest labelled rows are the gate's.

    >>> gate_rows(1000), gate_rows(10_000), gate_rows(1_000_000)
    (200, 2000, 20000)
    """
    share = int(labelled * GATE_SHARE)
    return share if labelled < FEW else min(max(share, GATE_LEAST), GATE_MOST)


def split(times: NDArray[np.int64]) -> Split | None:
    """The parts of labelled rows with these event times; None below SMALLEST rows. Ties keep their order.

    Rows of one time are on one side of a cut wherever that leaves both sides enough, so that the gate's rows are those
    of its window and nothing else names them.
    """
    rows = len(times)
    if rows < SMALLEST:
        return None
    order = np.argsort(times, kind="stable").astype(np.int64)
    ordered = times[order]
    gate = gate_rows(rows)
    search = int((rows - gate) * GATE_SHARE / (1 - GATE_SHARE)) if rows < FEW else min(gate, (rows - gate) // 2)
    late = _between_times(ordered, rows - gate)
    early = min(rows - gate - search, late)
    return Split(order[:early], order[early:late], order[late:])


def _between_times(ordered: NDArray[np.int64], place: int) -> int:
    """The nearest place to cut where the time changes; the place itself where one time takes up half of a side."""
    left = int(np.searchsorted(ordered, ordered[place], side="left"))
    if left >= place // 2 and left > 0:
        return left
    right = int(np.searchsorted(ordered, ordered[place], side="right"))
    return right if right < place + (len(ordered) - place) // 2 else place
