"""Both sides of a challenge brought onto the same rows and the same classes, and judged by the gates."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ctloop import columns
from ctloop.events.manifest import Manifest
from ctloop.events.training import ModelTrained
from ctloop.policy.gates import Challenge, GateReport, GateRule, judge

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Sides:
    """What was replayed on the gate rows; ``rows`` hold the label, outputs are [rows, classes] or [rows, 1]."""

    manifest: Manifest
    rows: pa.Table
    candidate: Matrix
    candidate_classes: tuple[str, ...]
    champion: Matrix | None
    champion_classes: tuple[str, ...]
    trained: ModelTrained
    p99_ms: float | None


def unseen(rows: pa.Table, time: str, since: datetime | None) -> pa.Table:
    """The rows the champion has not learned from: those after the end of its training window."""
    if since is None:
        return rows
    return rows.filter(pc.field(time) >= pa.scalar(since, pa.timestamp("us", "UTC")))


def challenge(sides: Sides) -> GateReport:
    """The gates' report. A class one side does not know has probability 0 there."""
    record = sides.manifest.record
    classes: tuple[str, ...] = ()
    if sides.candidate_classes:
        seen = columns.classes(sides.rows, record) if sides.rows.num_rows else ()
        classes = tuple(dict.fromkeys((*sides.candidate_classes, *sides.champion_classes, *seen)))
    champion = None if sides.champion is None else aligned(sides.champion, sides.champion_classes, classes)
    return judge(
        Challenge(
            candidate=aligned(sides.candidate, sides.candidate_classes, classes),
            champion=champion,
            truth=columns.target(sides.rows, record, classes),
            parity=sides.trained.parity,
            p99_ms=sides.p99_ms,
        ),
        GateRule.of(sides.manifest),
    )


def aligned(outputs: Matrix, known: Sequence[str], classes: Sequence[str]) -> Matrix:
    """Probabilities in another order of classes; values as they are.

    >>> aligned(np.array([[0.25, 0.75]]), ("b", "a"), ("a", "b", "c"))
    array([[0.75, 0.25, 0.  ]])
    """
    if not classes or tuple(known) == tuple(classes):
        return outputs
    places = {name: place for place, name in enumerate(classes)}
    full = np.zeros((len(outputs), len(classes)))
    full[:, [places[name] for name in known]] = outputs
    return full


def report_json(report: GateReport) -> dict[str, Any]:
    """For the evidence object."""
    return {
        "verdict": report.verdict.value,
        "gates": [one.model_dump(mode="json") for one in report.gates],
        "metrics": [one.model_dump(mode="json") for one in report.metrics],
        "champion_metrics": [one.model_dump(mode="json") for one in report.champion_metrics],
    }
