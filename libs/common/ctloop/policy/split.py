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
    """The parts of labelled rows with these event times; None below SMALLEST rows. Ties keep their order."""
    rows = len(times)
    if rows < SMALLEST:
        return None
    order = np.argsort(times, kind="stable").astype(np.int64)
    gate = gate_rows(rows)
    search = int((rows - gate) * GATE_SHARE / (1 - GATE_SHARE)) if rows < FEW else min(gate, (rows - gate) // 2)
    cut = rows - gate - search
    return Split(order[:cut], order[cut : rows - gate], order[rows - gate :])
