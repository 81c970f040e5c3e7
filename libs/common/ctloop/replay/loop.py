"""The policy tick by tick over a table: what monitoring, training, validation and the registry do between them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID, uuid5

import numpy as np
import pyarrow as pa

from ctloop.events.drift import DriftDetected, DriftResolved
from ctloop.events.manifest import Manifest
from ctloop.events.model import PerformanceMeasured
from ctloop.events.values import Measured, Verdict, Window
from ctloop.policy.decide import FIRST_GROWTH, MAX_ROWS, Decision, RetrainRule, decide
from ctloop.policy.drift import Counts, Episodes, Reference
from ctloop.policy.state import ChampionState, PolicyState
from ctloop.policy.windows import end_after, window_length
from ctloop.problems import Problem
from ctloop.replay.bench import Base, Bench, Fitted, Fitting, Matrix, Numbers, Settings
from ctloop.replay.report import Fit, ReplayDecision, ReplayResult, Track
from ctloop.replay.rows import MICROSECOND, NEVER, micros, moment, rows_of

EPISODES = UUID("6f2d7a35-8a63-5c41-9c0e-6b2fb1a1e7d4")


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
    base = loop.base()
    others = {"never": lambda: bench.static(base), "periodic": lambda: bench.periodic(base)}
    wanted = [loop.track() if name == "ctloop" else others[name]() for name in chosen.tracks]
    return ReplayResult(
        model=manifest.model,
        metric=manifest.metric,
        rows=len(rows.times),
        dropped=rows.dropped,
        step=base.step,
        tracks=tuple(wanted),
        decisions=tuple(loop.decisions),
        fits=tuple(loop.fits),
    )


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

    def base(self) -> Base:
        """The first model, which every track starts with."""
        assert self.first is not None, "run() has made it"
        return Base(self.first, self.first_at, self.step)

    def track(self) -> Track:
        """What the served versions were worth."""
        bench = self.bench
        later = np.flatnonzero((bench.rows.times > micros(self.first_at)) & (self.served > 0))
        seconds = sum(one.seconds for one in self.fits)
        return bench.track("ctloop", len(self.fits), seconds, later, self.outputs[later], self.base())

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
            more = int(labelled * FIRST_GROWTH) + 1
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
