"""The whole policy over a user's table in one process: never retrained, periodic, ctloop; no stack.

The decisions are taken by the very functions of ``ctloop.policy`` that the services call, on the same rows. The user's
function is called here, in this process, once per run with the middle of each range (no search).
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID, uuid5

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctloop.events.drift import DriftDetected, DriftResolved
from ctloop.events.manifest import Manifest
from ctloop.events.model import PerformanceMeasured
from ctloop.events.values import Measured, Parity, Verdict, Window
from ctloop.policy.conditions import names
from ctloop.policy.decide import MAX_ROWS, Decision, RetrainRule, decide
from ctloop.policy.drift import Counts, Episodes, Reference
from ctloop.policy.gates import Challenge, GateReport, GateRule, judge
from ctloop.policy.split import SMALLEST, split
from ctloop.policy.state import ChampionState, PolicyState
from ctloop.policy.windows import end_after, measure_window, window_length
from ctloop.problems import Problem
from ctloop.replay_report import Fit, ReplayDecision, ReplayResult, Track
from ctloop.replay_rows import MICROSECOND, NEVER, Rows, micros, moment, rows_of

HISTORY_WINDOWS = 4
"""Windows of data that are there before the first model, unless the caller says until when."""
HISTORY_SHARE = 0.4
"""The history is at most this share of the rows."""
EPISODES = UUID("6f2d7a35-8a63-5c41-9c0e-6b2fb1a1e7d4")
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


def replay(
    manifest: Manifest,
    model: Fitting,
    table: pa.Table,
    settings: Settings | None = None,
    said: Callable[[str], None] | None = None,
) -> ReplayResult:
    """Run the policy over a table, prequentially: a row is predicted by what was live at its event time.

    ``said`` hears one line per run. The same input gives the same result.

    Raises:
        Problem: the table has no label, a column cannot be cast, or too few rows are labelled.
    """
    chosen = settings or Settings()
    rows = rows_of(table, manifest.record, chosen.label_delay)
    bench = Bench(manifest, model, rows, chosen, said or (lambda line: None))
    start = bench.history_end()
    loop = Loop(bench, start)
    loop.run()
    step = loop.step
    others = {"never": lambda: bench.static(loop), "periodic": lambda: bench.periodic(loop, step)}
    wanted = [loop.track() if name == "ctloop" else others[name]() for name in chosen.tracks]
    return ReplayResult(
        model=manifest.model,
        metric=manifest.metric,
        rows=len(rows.times),
        dropped=rows.dropped,
        step=step,
        tracks=tuple(wanted),
        decisions=tuple(loop.decisions),
        fits=tuple(loop.fits),
    )


@dataclass(frozen=True)
class Fitted:
    """An estimator and what it learned from."""

    estimator: Any
    window: Window
    gate: Numbers
    gate_window: Window
    seconds: float


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

    def static(self, loop: "Loop") -> Track:
        """The first model for ever."""
        assert loop.first is not None, "run() has made a first model"
        later = np.flatnonzero(self.rows.times > micros(loop.first_at))
        outputs = self.predict(loop.first.estimator, later)
        return self.track("never", 1, loop.first.seconds, later, outputs, loop)

    def periodic(self, loop: "Loop", step: timedelta) -> Track:
        """A refit at every tick on the last four windows, live at once and without gates."""
        assert loop.first is not None, "run() has made a first model"
        later = np.flatnonzero(self.rows.times > micros(loop.first_at))
        outputs, estimator, fits, seconds = [np.zeros((0, 1))], loop.first.estimator, 1, loop.first.seconds
        bounds = [loop.first_at, *ticks(loop.first_at, moment(self.rows.times[-1]), step)]
        for number, at in enumerate(bounds):
            chosen = self.known_before(at, at - HISTORY_WINDOWS * step, MAX_ROWS)
            if number and len(chosen) >= SMALLEST:
                estimator, spent = self.fit(chosen, {})
                fits, seconds = fits + 1, seconds + spent
            until = micros(bounds[number + 1]) if number + 1 < len(bounds) else NEVER
            part = later[(self.rows.times[later] > micros(at) - (number > 0)) & (self.rows.times[later] < until)]
            outputs.append(self.predict(estimator, part))
        name = "weekly" if step == timedelta(days=7) else f"every {step}"
        return self.track(name, fits, seconds, later, np.vstack([one for one in outputs if len(one)]), loop)

    def track(self, name: str, fits: int, seconds: float, rows: Numbers, outputs: Matrix, loop: "Loop") -> Track:
        """Quality of outputs over rows, in all and by window."""
        labelled = self.rows.known[rows] < NEVER
        rows, outputs = rows[labelled], outputs[labelled]
        place = (self.rows.times[rows] - micros(loop.first_at)) // micros_of(loop.step)
        windows: list[tuple[datetime, Mapping[str, float]]] = []
        for one in np.unique(place):
            inside = place == one
            values = {each.name: each.value for each in self.measured(outputs[inside], rows[inside])}
            windows.append((loop.first_at + (int(one) + 1) * loop.step, values))
        return Track(name, fits, seconds, self.measured(outputs, rows), tuple(windows))


@dataclass(frozen=True)
class Champion:
    """The version that is watched."""

    fitted: Fitted
    version: int
    epoch: int
    metrics: tuple[Measured, ...]
    live_at: datetime
    step: timedelta
    next_end: datetime
    reference: Reference


class Loop:
    """The policy tick by tick: what monitoring, training, validation and the registry do between them."""

    def __init__(self, bench: Bench, start: datetime) -> None:
        self.bench, self.now = bench, start
        self.state = PolicyState()
        self.rule = RetrainRule.of(bench.manifest)
        self.champion: Champion | None = None
        self.pending: Champion | None = None
        self.episodes = Episodes()
        self.runs = 0
        self.first: Fitted | None = None
        self.first_at = start
        self.step = timedelta(0)
        self.decisions: list[ReplayDecision] = []
        self.fits: list[Fit] = []
        classes = len(bench.rows.classes)
        self.outputs: Matrix = np.full((len(bench.rows.times), max(1, classes)), np.nan)
        self.served: Numbers = np.zeros(len(bench.rows.times), np.int64)
        """Version that answered each row; 0: none."""

    def run(self) -> None:
        """The first model, then every tick to the end of the data.

        Raises:
            Problem: CT2003, no first model passes its gates.
        """
        self._begin()
        end = moment(self.bench.rows.times[-1])
        while (champion := self._watched()) is not None and champion.next_end <= end:
            self._tick(champion)
        self._serve(end + MICROSECOND)

    def track(self) -> Track:
        """What the served versions were worth."""
        bench = self.bench
        later = np.flatnonzero((bench.rows.times > micros(self.first_at)) & (self.served > 0))
        seconds = sum(one.seconds for one in self.fits)
        return bench.track("ctloop", len(self.fits), seconds, later, self.outputs[later], self)

    def _begin(self) -> None:
        known = np.sort(self.bench.rows.known)
        known = known[known < NEVER]
        while self.champion is None:
            labelled = int(np.searchsorted(known, micros(self.now), side="right"))
            self.state = self.state.on_data(labelled=labelled - self.state.labelled, data_time=self.now)
            decision = decide(self.state, self.rule, self.now)
            self._note(decision, 0, labelled)
            if decision.acts:
                self._act(decision)
            if self.pending is not None:
                self.first, self.first_at, self.step = self.pending.fitted, self.now, self.pending.step
                self._promote(self.pending)
                return
            more = int(labelled * 1.5) + 1
            if more >= len(known):
                why = self.fits[-1].refusal if self.fits else decision.reason
                raise Problem("CT2003", f"no first model passes its gates: {why}")
            self.now = moment(int(known[more]))

    def _watched(self) -> Champion | None:
        """The champion whose next window closes; a version that went live before that takes its place."""
        champion, pending = self.champion, self.pending
        if champion is not None and pending is not None and pending.live_at <= champion.next_end:
            self._promote(pending)
        return self.champion

    def _tick(self, champion: Champion) -> None:
        end, start = champion.next_end, champion.next_end - champion.step
        self._serve(end)
        measured = self._measure(champion, start, end)
        self._look(champion, start, end)
        self.state = self.state.on_performance(measured)
        known = int((self.bench.rows.known < micros(end)).sum())
        self.state = self.state.on_data(labelled=known - self.state.labelled, data_time=end)
        self.champion = replace(champion, next_end=end + champion.step)
        decision = decide(self.state, self.rule, end)
        self._note(decision, champion.version, measured.labels)
        if decision.acts:
            self._act(decision)

    def _measure(self, champion: Champion, start: datetime, end: datetime) -> PerformanceMeasured:
        rows = self.bench.rows
        inside = (rows.known >= micros(start)) & (rows.known < micros(end)) & (self.served == champion.version)
        judged = np.flatnonzero(inside)
        judged = judged[np.lexsort((judged, rows.known[judged]))]
        made = int(
            ((self.served == champion.version) & (rows.times >= micros(start)) & (rows.times < micros(end))).sum()
        )
        return PerformanceMeasured(
            model=self.bench.manifest.model,
            version=champion.version,
            epoch=champion.epoch,
            window=Window(start=start, end=end, rows=len(judged)),
            predictions=made,
            labels=len(judged),
            coverage=min(1.0, len(judged) / max(1, made)),
            metrics=self.bench.measured(self.outputs[judged], judged),
            data_time=end,
        )

    def _look(self, champion: Champion, start: datetime, end: datetime) -> None:
        """Inputs of the window against the reference: an episode opens or ends."""
        times = self.bench.rows.times
        first, last = (int(np.searchsorted(times, micros(one))) for one in (start, end))
        mine = first + np.flatnonzero(self.served[first:last] == champion.version)
        table = self.bench.rows.table.take(mine)
        scores = Counts.empty(champion.reference).add(table, champion.reference).scores(champion.reference)
        before = self.episodes
        self.episodes, happened = before.tick(scores, start.isoformat())
        since = self.episodes.open_since if happened == "opened" else before.open_since
        episode = uuid5(EPISODES, f"{champion.epoch}|{since}")
        model, version, window = self.bench.manifest.model, champion.version, Window(start=start, end=end)
        if happened == "opened":
            opened = DriftDetected(
                model=model, episode=episode, kind="data", version=version, since=start, features=scores,
                score=scores[0].score, current=window, reference=champion.fitted.window, data_time=end,
            )  # fmt: skip
            self.state = self.state.on_drift(opened)
        elif happened == "resolved":
            ended = DriftResolved(model=model, episode=episode, kind="data", version=version, at=end, why="returned")
            self.state = self.state.on_resolved(ended)

    def _act(self, decision: Decision) -> None:
        self.runs += 1
        version, before = self.runs, self.champion
        self.state = self.state.on_decided(decision, str(version))
        fitted = self.bench.train(decision, version)
        if fitted is None:
            self.state = self.state.on_refused(decision.now)
            return
        report = self.bench.challenge(fitted, before.fitted if before else None)
        passed = report.verdict is Verdict.PASSED
        fit = Fit(
            version, decision.now, decision.trigger or "", decision.reason, fitted.window.rows, fitted.seconds,
            report.verdict, report.gates, report.metrics,
        )  # fmt: skip
        self.fits.append(fit)
        self.bench.said(f"{decision.now:%Y-%m-%d %H:%M} {fit.trigger}: {'promoted' if passed else 'refused'}")
        if not passed:
            self.state = self.state.on_refused(decision.now)
            return
        step = window_length(fitted.window)
        inputs = [one.name for one in self.bench.manifest.record.inputs]
        learned = self.bench.known_before(fitted.window.end, fitted.window.start, MAX_ROWS)
        self.pending = Champion(
            fitted=fitted,
            version=version,
            epoch=(before.epoch if before else 0) + 1,
            metrics=report.metrics,
            live_at=self.bench.settings.live_from.get(version, decision.now),
            step=step,
            next_end=end_after(fitted.gate_window.end, step),
            reference=Reference.of(self.bench.rows.table.take(learned), inputs),
        )

    def _promote(self, champion: Champion) -> None:
        self._serve(champion.live_at)
        self.champion, self.pending, self.episodes = champion, None, Episodes()
        self.state = self.state.on_champion(
            ChampionState(
                epoch=champion.epoch,
                version=champion.version,
                metrics=champion.metrics,
                training_window=champion.fitted.window,
                promoted_at=champion.fitted.gate_window.end,
            )
        )

    def _serve(self, until: datetime) -> None:
        """Let the champion answer the rows that nobody has answered before a data time."""
        if self.champion is None:
            return
        last = int(np.searchsorted(self.bench.rows.times, micros(until)))
        first = int(np.searchsorted(self.bench.rows.times, micros(self.champion.live_at)))
        waiting = first + np.flatnonzero(self.served[first:last] == 0)
        if len(waiting):
            self.outputs[waiting] = self.bench.predict(self.champion.fitted.estimator, waiting)
            self.served[waiting] = self.champion.version

    def _note(self, decision: Decision, version: int, labels: int) -> None:
        self.decisions.append(
            ReplayDecision(
                decision.now, version, labels, decision.acts, decision.trigger, decision.reason, decision.tree
            )
        )


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
