"""Asks the brain about one closed window: how good the champion was, and whether the world differs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid5

import numpy as np
import pyarrow as pa
from pydantic import AwareDatetime

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
OUTPUT = "prediction"


class Scores(Value):
    """How far each feature was from the reference in one window; kept for people."""

    version: int
    epoch: int
    end: AwareDatetime
    rows: int
    prediction: float | None
    features: tuple[FeatureScore, ...]


class Memory(Value):
    """What is remembered of drift from window to window."""

    data: str | None = None
    """Since when inputs are in drift, ISO data time; None: they are not."""
    prediction: str | None = None
    concept: str | None = None
    outputs: str | None = None
    """The outputs of the version's first full window, binned: what later ones are compared with."""


@dataclass(frozen=True)
class Seen:
    """What a window showed of drift, and what is to be remembered."""

    said: tuple[DriftDetected | DriftResolved, ...]
    detector: str
    episodes: str
    scores: str


def step(training_window: Window) -> timedelta:
    """Length of the windows of data time a champion is judged in."""
    return windows.window_length(training_window)


def end_after(time: datetime, length: timedelta) -> datetime:
    """End of the first window that is judged after a data time."""
    return windows.end_after(time, length)


def closes(end: datetime, data_time: datetime, served_until: datetime | None, *, idle: bool) -> bool:
    """Whether a window is over: data and predictions have come as far, or nobody predicts."""
    return windows.closes(end, data_time, served_until, idle=idle)


Made = Sequence[float | None]
"""Outputs of the predictions made in a window, judged or not."""


def measure(
    champion: Champion, manifest: Manifest, rows: Judged, made: Made, window: Window, data_time: datetime
) -> PerformanceMeasured:
    """How good the champion was by the labels that became known in a window."""
    outputs, truth, _ = rows.usable(champion.classes)
    metrics = windows.measure_window(manifest.metric, manifest.report, outputs, truth, len(champion.classes))
    return PerformanceMeasured(
        model=champion.model,
        version=champion.version,
        epoch=champion.epoch,
        window=window.model_copy(update={"rows": len(truth)}),
        predictions=len(made),
        labels=len(truth),
        coverage=min(1.0, len(truth) / max(1, len(made))),
        metrics=metrics,
        data_time=data_time,
    )


def look(champion: Champion, manifest: Manifest, rows: Judged, made: Made, held: str | None, window: Window) -> Seen:
    """Compare a closed window with the reference, feed the detector the rows' losses, open and end episodes."""
    memory = Memory.model_validate_json(champion.episodes) if champion.episodes else Memory()
    features, counted = _features(champion, held)
    output, bins = _output(memory, made)
    detector = Adwin.from_json(champion.detector) if champion.detector else Adwin()
    concept = _feed(detector, manifest, rows, champion)
    ticks = (
        _Tick("data", memory.data, features),
        _Tick("prediction", memory.prediction, output),
    )
    said: list[DriftDetected | DriftResolved] = []
    since: dict[str, str | None] = {}
    for tick in ticks:
        since[tick.kind], happened = _turn(tick, window)
        said += _say(champion, tick, since[tick.kind], happened, window.model_copy(update={"rows": counted}))
    tick = _Tick("concept", memory.concept, (FeatureScore(name=manifest.metric, score=concept),) if concept else ())
    since["concept"], happened = _turn_concept(tick, concept, window)
    said += _say(champion, tick, since["concept"], happened, window.model_copy(update={"rows": len(rows.outputs)}))
    scores = Scores(
        version=champion.version,
        epoch=champion.epoch,
        end=window.end,
        rows=counted,
        prediction=output[0].score if output else None,
        features=features,
    )
    kept = Memory(data=since["data"], prediction=since["prediction"], concept=since["concept"], outputs=bins)
    return Seen(tuple(said), detector.to_json(), kept.model_dump_json(), scores.model_dump_json())


@dataclass(frozen=True)
class _Tick:
    """One kind of drift at the end of a window."""

    kind: DriftKind
    since: str | None
    scores: tuple[FeatureScore, ...]


def _features(champion: Champion, held: str | None) -> tuple[tuple[FeatureScore, ...], int]:
    if champion.reference is None or held is None:
        return (), 0
    counts = Counts.from_json(held)
    return counts.scores(Reference.from_json(champion.reference)), counts.rows


def _output(memory: Memory, made: Made) -> tuple[tuple[FeatureScore, ...], str | None]:
    """How far the outputs are from those of the first full window, and its bins."""
    table = pa.table({OUTPUT: pa.array(made, pa.float64())})
    if memory.outputs is None:
        bins = Reference.of(table, (OUTPUT,))
        full = bool(Counts.empty(bins).add(table, bins).scores(bins))
        return (), bins.to_json() if full else None
    bins = Reference.from_json(memory.outputs)
    return Counts.empty(bins).add(table, bins).scores(bins), memory.outputs


def _feed(detector: Adwin, manifest: Manifest, rows: Judged, champion: Champion) -> float:
    """Give the detector the losses in the order the labels became known; the change of the mean loss when it cut."""
    outputs, truth, _ = rows.usable(champion.classes)
    if not len(truth):
        return 0.0
    losses = row_losses(manifest.metric, outputs, truth)
    before, held = detector.mean, detector.width
    if not detector.update(losses[np.isfinite(losses)].tolist()) or not held:
        return 0.0
    return detector.mean - before


def _turn(tick: _Tick, window: Window) -> tuple[str | None, str | None]:
    state, happened = Episodes(tick.since).tick(tick.scores, window.start.isoformat())
    return state.open_since, happened


def _turn_concept(tick: _Tick, change: float, window: Window) -> tuple[str | None, str | None]:
    """A cut to a greater loss opens an episode, a cut to a smaller one ends it."""
    if change > 0 and tick.since is None:
        return window.start.isoformat(), "opened"
    if change < 0 and tick.since is not None:
        return None, "resolved"
    return tick.since, None


def _say(
    champion: Champion, tick: _Tick, since: str | None, happened: str | None, window: Window
) -> tuple[DriftDetected | DriftResolved, ...]:
    if happened == "opened" and since is not None:
        return (
            DriftDetected(
                model=champion.model,
                episode=_episode(champion, tick.kind, since),
                kind=tick.kind,
                version=champion.version,
                since=window.start,
                features=tick.scores,
                score=tick.scores[0].score,
                current=window,
                reference=champion.training_window,
                data_time=window.end,
            ),
        )
    if happened == "resolved" and tick.since is not None:
        return (
            DriftResolved(
                model=champion.model,
                episode=_episode(champion, tick.kind, tick.since),
                kind=tick.kind,
                version=champion.version,
                at=window.end,
                why="returned",
            ),
        )
    return ()


def _episode(champion: Champion, kind: str, since: str) -> UUID:
    return uuid5(EPISODES, json.dumps([champion.model, champion.epoch, kind, since]))
