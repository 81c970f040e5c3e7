"""ADWIN on the error stream of the champion: exponential histogram of bounded values, cut where two parts differ.

Bifet and Gavalda, Learning from Time-Changing Data with Adaptive Windowing, SDM 2007. Written here because importing
river costs 187 MB of memory; river's own is the reference in the tests.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

DELTA = 0.002
MAX_BUCKETS = 5
CLOCK = 32
MIN_WINDOW, GRACE = 5, 10
LOSS_CAP = 10.0
"""Losses are clipped to this: a detector must never see a huge number."""


@dataclass
class _Row:
    """Buckets of 2^level values: total and variance (sum of squared deviations) of each, oldest first."""

    totals: list[float] = field(default_factory=list[float])
    variances: list[float] = field(default_factory=list[float])


@dataclass
class Adwin:
    """A window of adaptive length over a stream of finite numbers."""

    delta: float = DELTA
    rows: list[_Row] = field(default_factory=lambda: [_Row()])
    total: float = 0.0
    variance: float = 0.0
    width: int = 0
    ticks: int = 0
    detections: int = 0

    @property
    def mean(self) -> float:
        """Mean of what is in the window."""
        return self.total / self.width if self.width else 0.0

    def update(self, values: Iterable[float]) -> bool:
        """Take values in order; True when the window was cut at any of them. What is not finite is left out."""
        before = self.detections
        for value in values:
            if math.isfinite(value):
                self._one(min(max(value, -LOSS_CAP), LOSS_CAP))
        return self.detections > before

    def _one(self, value: float) -> None:
        if self.width:
            self.variance += self.width * (value - self.mean) ** 2 / (self.width + 1)
        self.total += value
        self.width += 1
        self.rows[0].totals.append(value)
        self.rows[0].variances.append(0.0)
        self._compress()
        self.ticks += 1
        if self.ticks % CLOCK == 0 and self.width > GRACE and self._cut():
            self.detections += 1

    def _compress(self) -> None:
        for level, row in enumerate(self.rows):
            if len(row.totals) <= MAX_BUCKETS:
                return
            if level + 1 == len(self.rows):
                self.rows.append(_Row())
            size = 1 << level
            one, two = row.totals[0], row.totals[1]
            between = (one - two) ** 2 / (2 * size)
            self.rows[level + 1].totals.append(one + two)
            self.rows[level + 1].variances.append(row.variances[0] + row.variances[1] + between)
            del row.totals[:2], row.variances[:2]

    def _cut(self) -> bool:
        """Drop old buckets as long as the window splits into parts with different means."""
        cut = False
        while self._splits():
            self._drop_oldest()
            cut = True
        return cut

    def _splits(self) -> bool:
        old_width, old_total = 0, 0.0
        for level in range(len(self.rows) - 1, -1, -1):
            for total in self.rows[level].totals:
                old_width += 1 << level
                old_total += total
                new_width = self.width - old_width
                if new_width < MIN_WINDOW:
                    return False
                if old_width >= MIN_WINDOW and self._differ(old_width, old_total, new_width):
                    return True
        return False

    def _differ(self, old: int, old_total: float, new: int) -> bool:
        difference = abs(old_total / old - (self.total - old_total) / new)
        inverse = 1 / (old - MIN_WINDOW + 1) + 1 / (new - MIN_WINDOW + 1)
        confidence = math.log(2 * math.log(self.width) / self.delta)
        spread = self.variance / self.width
        return difference > math.sqrt(2 * inverse * spread * confidence) + 2 / 3 * confidence * inverse

    def _drop_oldest(self) -> None:
        level = len(self.rows) - 1
        row = self.rows[level]
        size, total, variance = 1 << level, row.totals.pop(0), row.variances.pop(0)
        rest = self.width - size
        if rest:
            gap = total / size - (self.total - total) / rest
            self.variance -= variance + size * rest * gap**2 / self.width
        self.variance = max(0.0, self.variance)
        self.total -= total
        self.width = rest
        if not row.totals and level:
            self.rows.pop()

    def to_json(self) -> str:
        """The whole state."""
        rows = [[row.totals, row.variances] for row in self.rows]
        return json.dumps([self.delta, rows, self.total, self.variance, self.width, self.ticks, self.detections])

    @classmethod
    def from_json(cls, text: str) -> "Adwin":
        """What to_json wrote: goes on exactly as the one that was written."""
        delta, rows, total, variance, width, ticks, detections = json.loads(text)
        return cls(delta, [_Row(*row) for row in rows], total, variance, width, ticks, detections)
