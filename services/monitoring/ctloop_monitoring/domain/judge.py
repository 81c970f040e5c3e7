"""Asks the brain about one closed window: how good the champion was, and whether the world differs."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid5

import numpy as np

from ctloop.events.drift import DriftDetected, DriftKind, DriftResolved
from ctloop.events.envelope import Value
from ctloop.events.manifest import Manifest
from ctloop.events.model import PerformanceMeasured
from ctloop.events.values import FeatureScore, Window
from ctloop.policy import windows
from ctloop.policy.detectors import Adwin
from ctloop.policy.drift import Counts, Episodes, Reference
from ctloop.policy.losses import row_losses
from ctloop_monitoring.domain.champion import Champion
from ctloop_monitoring.domain.columns import Judged

EPISODES = UUID("0d1a6f2c-3e36-5a0e-9a56-0f6f0c1f9b11")
"""Namespace of the ids of episodes: the same drift in the same window is the same episode."""


class Scores(Value):
    """How far each feature was from the reference in one window; kept for people."""

    version: int
    epoch: int
    end: datetime
    rows: int
    prediction: float | None
    features: tuple[FeatureScore, ...]


@dataclass(frozen=True)
class Seen:
    """What a window showed of drift, and what is to be remembered."""

    said: tuple[DriftDetected | DriftResolved, ...]
    detector: str | None
    episodes: str | None
    scores: str | None


def step(training_window: Window) -> timedelta:
    """Length of the windows of data time a champion is judged in."""
    return windows.window_length(training_window)


def end_after(time: datetime, length: timedelta) -> datetime:
    """End of the first window of the grid that ends after a data time."""
    return windows.next_end(time, length)


def closes(end: datetime, data_time: datetime, served_until: datetime | None, *, idle: bool) -> bool:
    """Whether a window is over: data and predictions have come as far, or nobody predicts."""
    return windows.closes(end, data_time, served_until, idle)


def measure(
    champion: Champion, manifest: Manifest, rows: Judged, window: Window, predictions: int, known: int, data_time: datetime
) -> PerformanceMeasured:
    """How good the champion was by the labels that became known in a window.

    ``predictions`` were made in it, ``known`` labels of the dataset became known in it, judged or not.
    """
    outputs, truth, _ = rows.usable(champion.classes)
    metrics = windows.measure_window(outputs, truth, manifest.metric, manifest.report)
    return PerformanceMeasured(
        model=champion.model,
        version=champion.version,
        epoch=champion.epoch,
        window=window.model_copy(update={"rows": len(truth)}),
        predictions=predictions,
        labels=len(truth),
        coverage=min(1.0, len(truth) / max(known, 1)),
        metrics=metrics,
        data_time=data_time,
    )


def look(champion: Champion, manifest: Manifest, rows: Judged, held: str | None, window: Window) -> Seen:
    """Compare a closed window with the reference, feed the detector the rows' losses, open and end episodes."""
    outputs, truth, known_at = rows.usable(champion.classes)
    losses = row_losses(manifest.metric, outputs, truth)
    detector = Adwin.from_json(champion.detector) if champion.detector is not None else Adwin.new(manifest.seed)
    alarms = [at for loss, at in zip(losses, known_at, strict=True) if detector.update(float(loss))]
    scores = _scores(champion, held, window)
    said, episodes = _episodes(champion, scores, alarms, window)
    return Seen(said, detector.to_json(), episodes, scores.model_dump_json() if scores else None)
