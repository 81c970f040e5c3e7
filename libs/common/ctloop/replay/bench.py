"""What every track of a replay does with the rows and the model: fit, predict, measure, challenge."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ctloop.events.manifest import Manifest
from ctloop.events.values import Measured, Parity, Window
from ctloop.policy.conditions import names
from ctloop.policy.decide import MAX_ROWS, Decision
from ctloop.policy.gates import Challenge, GateReport, GateRule, judge
from ctloop.policy.split import SMALLEST, split
from ctloop.policy.windows import end_after, measure_window, window_length
from ctloop.problems import Problem
from ctloop.replay.report import Track
from ctloop.replay.rows import MICROSECOND, NEVER, Rows, micros, moment

HISTORY_WINDOWS = 4
"""Windows of data that are there before the first model, unless the caller says until when."""
HISTORY_SHARE = 0.4
"""The history is at most this share of the rows."""
Matrix = NDArray[np.float64]
Numbers = NDArray[np.int64]


class Fitting(Protocol):
    """What a declared model can do (``ctloop.fit.Model``)."""

    def fit(self, X: Any, y: Any, **params: Any) -> Any: ...


@dataclass(frozen=True)
class Settings:
    """What a replay is given beside the model and the table."""

    label_delay: timedelta = timedelta(0)
    """Where the table has no column ``observed_at``."""
    history_until: datetime | None = None
    """Data time of the first decision; None: four windows of data."""
    live_from: Mapping[int, datetime] = field(default_factory=dict[int, datetime])
    """Data time at which a version went live; a version that is not named does so at its decision."""
    params: Mapping[int, Mapping[str, Any]] = field(default_factory=dict[int, Mapping[str, Any]])
    """Hyperparameters of a run by version, where a search chose them."""
    tracks: tuple[str, ...] = ("never", "periodic", "ctloop")


@dataclass(frozen=True)
class Fitted:
    """An estimator and what it learned from."""

    estimator: Any
    window: Window
    gate: Numbers
    gate_window: Window
    seconds: float


@dataclass(frozen=True)
class Base:
    """Where all tracks start: the first model and when it was made."""

    fitted: Fitted
    at: datetime
    step: timedelta


class Bench:
    """The rows, the model, and what every track does with them."""

    def __init__(
        self, manifest: Manifest, model: Fitting, rows: Rows, settings: Settings, said: Callable[[str], None]
    ) -> None:
        self.manifest, self.model, self.rows, self.settings, self.said = manifest, model, rows, settings, said

    def history_end(self) -> datetime:
        """Data time of the first decision.

        Raises:
            Problem: CT2003, too few labelled rows.
        """
        known = np.sort(self.rows.known[self.rows.known < NEVER])
        if len(known) <= SMALLEST:
            raise Problem("CT2003", f"{len(known)} labelled rows; nothing is trained below {SMALLEST}")
        if self.settings.history_until is not None:
            return self.settings.history_until
        times = self.rows.times
        length = window_length(span(times))
        latest = int(times[int(len(times) * HISTORY_SHARE)])
        least = int(known[min(len(known) - 1, 2 * SMALLEST)]) + 1
        return moment(max(min(int(times[0]) + micros_of(HISTORY_WINDOWS * length), latest), least))

    def known_before(self, now: datetime, since: datetime, most: int) -> Numbers:
        """Labelled rows as of a data time, newest ``most``, in order of event time: what the lake's reader gives."""
        at = micros(now)
        until = int(np.searchsorted(self.rows.times, at, side="right"))
        first = int(np.searchsorted(self.rows.times, micros(since), side="left"))
        return (first + np.flatnonzero(self.rows.known[first:until] < at))[-most:]

    def fit(self, chosen: Numbers, params: Mapping[str, Any]) -> tuple[Any, float]:
        """One call of the user's function, seeded as the training service does."""
        random.seed(self.manifest.seed)
        np.random.seed(self.manifest.seed % 2**32)
        started = time.perf_counter()
        threads = max(
            1, int(self.manifest.resources.cpus)
        )  # sums of several threads round differently: as a run has it
        with threadpool_limits(limits=threads):
            estimator = self.model.fit(self.rows.X.iloc[chosen], self.rows.y[chosen], **params)
        return estimator, time.perf_counter() - started

    def train(self, decision: Decision, version: int) -> Fitted | None:
        """A run: the rows of the decision, split, the final fit; None: too few rows."""
        pool = self.known_before(decision.now, decision.since, decision.max_rows)
        parts = split(self.rows.times[pool])
        if parts is None:
            return None
        final, gate = pool[parts.final], pool[parts.gate]
        estimator, seconds = self.fit(final, self.settings.params.get(version, {}))
        return Fitted(estimator, span(self.rows.times[final]), gate, span(self.rows.times[gate]), seconds)

    def predict(self, estimator: Any, chosen: Numbers) -> Matrix:
        """Probabilities [N, C] in the order of the classes, or values [N, 1]."""
        classes = len(self.rows.classes)
        X = self.rows.X.iloc[chosen]
        if not len(chosen) or not classes:
            return np.asarray(estimator.predict(X) if len(chosen) else [], np.float64).reshape(-1, max(1, classes))
        full = np.zeros((len(chosen), classes))
        full[:, np.asarray(estimator.classes_, np.int64)] = estimator.predict_proba(X)
        return full

    def measured(self, outputs: Matrix, chosen: Numbers) -> tuple[Measured, ...]:
        """The manifest's metrics over rows."""
        manifest, classes = self.manifest, len(self.rows.classes)
        given = outputs if classes else outputs.reshape(-1)
        return measure_window(manifest.metric, manifest.report, given, self.rows.y[chosen], classes)

    def challenge(self, fitted: Fitted, champion: Fitted | None) -> GateReport:
        """Candidate and champion on the gate rows the champion has not learned from."""
        gate = fitted.gate
        if champion is not None:
            gate = gate[self.rows.times[gate] >= micros(champion.window.end)]
        theirs = None if champion is None else self.predict(champion.estimator, gate)
        return judge(
            Challenge(
                candidate=self.predict(fitted.estimator, gate),
                champion=theirs,
                truth=self.rows.y[gate],
                parity=Parity(rows=0, largest_difference=0.0, flipped=0),
            ),
            without_latency(GateRule.of(self.manifest)),
        )

    def static(self, base: Base) -> Track:
        """The first model for ever."""
        later = np.flatnonzero(self.rows.times > micros(base.at))
        outputs = self.predict(base.fitted.estimator, later)
        return self.track("never", 1, base.fitted.seconds, later, outputs, base)

    def periodic(self, base: Base) -> Track:
        """A refit at every tick on the last four windows, live at once and without gates."""
        later, step = np.flatnonzero(self.rows.times > micros(base.at)), base.step
        outputs, estimator, fits, seconds = [np.zeros((0, 1))], base.fitted.estimator, 1, base.fitted.seconds
        bounds = [base.at, *ticks(base.at, moment(self.rows.times[-1]), step)]
        for number, at in enumerate(bounds):
            chosen = self.known_before(at, at - HISTORY_WINDOWS * step, MAX_ROWS)
            if number and len(chosen) >= SMALLEST:
                estimator, spent = self.fit(chosen, {})
                fits, seconds = fits + 1, seconds + spent
            until = micros(bounds[number + 1]) if number + 1 < len(bounds) else NEVER
            part = later[(self.rows.times[later] > micros(at) - (number > 0)) & (self.rows.times[later] < until)]
            outputs.append(self.predict(estimator, part))
        name = "weekly" if step == timedelta(days=7) else f"every {step}"
        return self.track(name, fits, seconds, later, np.vstack([one for one in outputs if len(one)]), base)

    def track(self, name: str, fits: int, seconds: float, rows: Numbers, outputs: Matrix, base: Base) -> Track:
        """Quality of outputs over rows, in all and by window."""
        labelled = self.rows.known[rows] < NEVER
        rows, outputs = rows[labelled], outputs[labelled]
        place = (self.rows.times[rows] - micros(base.at)) // micros_of(base.step)
        windows: list[tuple[datetime, Mapping[str, float]]] = []
        for one in np.unique(place):
            inside = place == one
            values = {each.name: each.value for each in self.measured(outputs[inside], rows[inside])}
            windows.append((base.at + (int(one) + 1) * base.step, values))
        return Track(name, fits, seconds, self.measured(outputs, rows), tuple(windows))


def span(times: Numbers) -> Window:
    """From the first to just after the last of some times, as training says its windows."""
    return Window(start=moment(times.min()), end=moment(times.max()) + MICROSECOND, rows=len(times))


def micros_of(length: timedelta) -> int:
    """A duration in microseconds."""
    return length // MICROSECOND


def ticks(after: datetime, until: datetime, step: timedelta) -> Sequence[datetime]:
    """Ends of windows of the grid, the first one at least a window after a data time."""
    first = end_after(after, step)
    return [first + number * step for number in range(max(0, (until - first) // step + 1))]


def without_latency(rule: GateRule) -> GateRule:
    """Without the lines about latency: nothing is served here."""
    kept = tuple((text, node) for text, node in rule.gates if not any("p99_ms" in name for name in names(node)))
    return replace(rule, gates=kept)
