"""Drift of inputs: the deployed version's training window binned once, then counts per window; memory is constant."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ctloop.events.values import FeatureScore

BINS = 10
LEVELS = 50
"""Categories kept by name; the others share one bin."""
FLOOR = 1e-4
"""Smallest share of a bin, so that an empty one does not make the index infinite."""
DRIFTED = 0.25
"""PSI above which a population has shifted (Siddiqi, Credit Risk Scorecards, 2006)."""
CALM = 0.1
LEAST_ROWS = 200
"""Rows in a window below which nothing is concluded."""

Counted = NDArray[np.int64]
pc: Any = pyarrow.compute  # its functions are made at import and have no types


@dataclass(frozen=True)
class Feature:
    """One column of the reference: edges of a number or levels of a text, and shares; missing is the last bin but
    one's neighbour: shares are [bins..., other, missing]."""

    name: str
    edges: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Bins, with other and missing."""
        return (len(self.edges) + 1 if not self.levels else len(self.levels)) + 2


@dataclass(frozen=True)
class Reference:
    """The bins of a training window."""

    features: tuple[Feature, ...]
    rows: int

    @classmethod
    def of(cls, table: pa.Table, columns: Sequence[str]) -> "Reference":
        """Bin the columns of a table: numbers by their deciles, text by its most frequent levels."""
        return cls(tuple(_feature(table, name) for name in columns if name in table.column_names), table.num_rows)

    def to_json(self) -> str:
        """Canonical JSON."""
        body = [[one.name, one.edges, one.levels, one.counts] for one in self.features]
        return json.dumps({"rows": self.rows, "features": body}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Reference":
        """What to_json wrote."""
        body = json.loads(text)
        return cls(tuple(Feature(n, tuple(e), tuple(v), tuple(c)) for n, e, v, c in body["features"]), body["rows"])


@dataclass(frozen=True)
class Counts:
    """What one window holds, in the bins of a reference."""

    counts: Mapping[str, tuple[int, ...]]
    new: Mapping[str, int] = field(default_factory=dict[str, int])
    """Rows with a category the reference does not have, by column."""
    rows: int = 0

    @classmethod
    def empty(cls, reference: Reference) -> "Counts":
        """Nothing counted yet."""
        return cls({one.name: (0,) * one.size for one in reference.features})

    def add(self, table: pa.Table, reference: Reference) -> "Counts":
        """With these rows counted; a column that is absent counts as missing."""
        counts, new = dict(self.counts), dict(self.new)
        for one in reference.features:
            found, unseen = _count(one, table)
            counts[one.name] = tuple(int(a + b) for a, b in zip(counts[one.name], found, strict=True))
            new[one.name] = new.get(one.name, 0) + unseen
        return Counts(counts, new, self.rows + table.num_rows)

    def scores(self, reference: Reference) -> tuple[FeatureScore, ...]:
        """PSI of each column against the reference, worst first; empty below LEAST_ROWS rows."""
        if self.rows < LEAST_ROWS:
            return ()
        found = [self._score(one) for one in reference.features]
        return tuple(sorted(found, key=lambda one: (-one.score, one.name)))

    def _score(self, feature: Feature) -> FeatureScore:
        then, now = np.array(feature.counts, float), np.array(self.counts[feature.name], float)
        return FeatureScore(
            name=feature.name,
            score=psi(then, now),
            missing=float(now[-1] / max(1.0, now.sum())),
            reference_missing=float(then[-1] / max(1.0, then.sum())),
            new_categories=self.new.get(feature.name, 0),
        )

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps({"rows": self.rows, "counts": self.counts, "new": self.new}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Counts":
        """What to_json wrote."""
        body = json.loads(text)
        return cls({name: tuple(one) for name, one in body["counts"].items()}, body["new"], body["rows"])


def psi(reference: NDArray[np.float64], current: NDArray[np.float64]) -> float:
    """Population stability index of two counts over the same bins (Siddiqi 2006).

    >>> psi(np.array([50.0, 50.0]), np.array([50.0, 50.0]))
    0.0
    """
    then = np.maximum(reference / max(1.0, reference.sum()), FLOOR)
    now = np.maximum(current / max(1.0, current.sum()), FLOOR)
    return float(((now - then) * np.log(now / then)).sum())


@dataclass(frozen=True)
class Episodes:
    """Which features are in drift: an episode opens once above DRIFTED and closes below CALM."""

    open_since: str | None = None
    """ISO data time of the window in which it opened."""

    def tick(self, scores: Sequence[FeatureScore], window_start: str) -> tuple["Episodes", str | None]:
        """The state after a window, and what happened: ``opened``, ``resolved`` or None."""
        if not scores:
            return self, None
        worst = max(one.score for one in scores)
        if self.open_since is None and worst > DRIFTED:
            return replace(self, open_since=window_start), "opened"
        if self.open_since is not None and worst < CALM:
            return replace(self, open_since=None), "resolved"
        return self, None

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps({"open_since": self.open_since})

    @classmethod
    def from_json(cls, text: str) -> "Episodes":
        """What to_json wrote."""
        return cls(json.loads(text)["open_since"])


def _feature(table: pa.Table, name: str) -> Feature:
    column = _plain(table.column(name))
    if _is_text(column.type):
        counted = pc.value_counts(column.drop_null()).to_pylist()
        counted.sort(key=lambda one: (-one["counts"], one["values"]))
        feature = Feature(name, levels=tuple(one["values"] for one in counted[:LEVELS]))
    else:
        values = _numbers(column)
        finite = values[np.isfinite(values)]
        edges = np.unique(np.quantile(finite, np.arange(1, BINS) / BINS)) if len(finite) else np.array([])
        feature = Feature(name, edges=tuple(float(one) for one in edges))
    counts, _ = _count(feature, table)
    return replace(feature, counts=tuple(int(one) for one in counts))


def _count(feature: Feature, table: pa.Table) -> tuple[Counted, int]:
    counts = np.zeros(feature.size, np.int64)
    if feature.name not in table.column_names:
        counts[-1] = table.num_rows
        return counts, 0
    column = _plain(table.column(feature.name))
    if _is_text(column.type):
        return _count_text(feature, column, counts)
    values = _numbers(column)
    finite = np.isfinite(values)
    place = np.searchsorted(np.array(feature.edges), values[finite], side="right")
    counts[: len(feature.edges) + 1] = np.bincount(place, minlength=len(feature.edges) + 1)[: len(feature.edges) + 1]
    counts[-1] = int((~finite).sum())
    return counts, 0


def _count_text(feature: Feature, column: Any, counts: Counted) -> tuple[Counted, int]:
    missing = pc.or_kleene(pc.is_null(column), pc.equal(pc.fill_null(column, ""), ""))
    levels = pa.array(feature.levels, pa.string())
    place = pc.fill_null(pc.index_in(column, value_set=levels), len(feature.levels)).to_numpy(zero_copy_only=False)
    absent = missing.to_numpy(zero_copy_only=False).astype(bool)
    known = np.bincount(place[~absent].astype(np.int64), minlength=len(feature.levels) + 1)
    counts[: len(feature.levels) + 1] = known[: len(feature.levels) + 1]
    counts[-1] = int(absent.sum())
    return counts, int(known[len(feature.levels)]) if len(feature.levels) < LEVELS else 0


def _plain(column: Any) -> Any:
    found = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(found.type):
        found = found.dictionary_decode()
    return found.cast(pa.string()) if pa.types.is_large_string(found.type) else found


def _is_text(type: pa.DataType) -> bool:
    return pa.types.is_string(type)


def _numbers(column: Any) -> NDArray[np.float64]:
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
