"""What the policy remembers of a model: one frozen value, changed by one pure step per fact."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import AwareDatetime

from ctloop.events.drift import DriftDetected, DriftResolved
from ctloop.events.envelope import Value
from ctloop.events.model import PerformanceMeasured, Promotion
from ctloop.events.values import FeatureScore, Measured, Window
from ctloop.policy.windows import window_length

if TYPE_CHECKING:
    from ctloop.policy.decide import Decision

KEPT_WINDOWS = 8
KEPT_RUNS = 1_000
DAY = timedelta(days=1)
KEPT_ENDED = 16


class ChampionState(Value):
    """The version whose performance is watched."""

    epoch: int
    version: int
    metrics: tuple[Measured, ...]
    """Its gate metrics: what it is measured against."""
    training_window: Window
    promoted_at: AwareDatetime
    """Data time."""

    @property
    def window_length(self) -> timedelta:
        """The step of its grid."""
        return window_length(self.training_window)


class MeasuredWindow(Value):
    """One window of the champion."""

    window: Window
    labels: int
    metrics: tuple[Measured, ...]


class OpenDrift(Value):
    """An episode that has not ended."""

    episode: UUID
    kind: str
    since: AwareDatetime
    score: float
    features: tuple[FeatureScore, ...] = ()


class PolicyState(Value):
    """Everything a decision rests on."""

    data_time: AwareDatetime | None = None
    labelled: int = 0
    """Labelled rows of the dataset, all in all."""
    champion: ChampionState | None = None
    windows: tuple[MeasuredWindow, ...] = ()
    """Of the champion, oldest first."""
    drifts: tuple[OpenDrift, ...] = ()
    refused: int = 0
    """Runs in a row that brought no promotion."""
    open_run: str | None = None
    """The decision whose run has not ended."""
    passed: bool = False
    """The open run passed its gates: its promotion is on its way."""
    decided_at: tuple[AwareDatetime, ...] = ()
    """Data times of the decisions of a day that were acted on, oldest first; the last one however old it is."""
    labelled_at_decision: int = 0
    """At the last one that was acted on, or held back for a person."""
    ended: tuple[UUID, ...] = ()
    """Episodes whose end was heard of before their beginning."""

    def is_champion(self, epoch: int) -> bool:
        """Whether a fact is about the champion's epoch."""
        return self.champion is not None and self.champion.epoch == epoch

    def is_current(self, epoch: int) -> bool:
        """Whether a verdict is against the champion of now; 0: there was none."""
        return (self.champion.epoch if self.champion else 0) == epoch

    def on_data(self, *, labelled: int, data_time: datetime) -> "PolicyState":
        """A batch was validated."""
        newest = data_time if self.data_time is None else max(self.data_time, data_time)
        return self._with(data_time=newest, labelled=self.labelled + labelled)

    def is_tick(self, end: datetime) -> bool:
        """Whether a window is a new one; one that is measured again is evidence and no moment to decide."""
        return not self.windows or self.windows[-1].window.end < end

    def on_performance(self, event: PerformanceMeasured) -> "PolicyState":
        """A window was measured, or measured again."""
        if not self.is_champion(event.epoch):
            return self
        fresh = MeasuredWindow(window=event.window, labels=event.labels, metrics=event.metrics)
        others = [one for one in self.windows if one.window.start != event.window.start]
        kept = sorted((*others, fresh), key=lambda one: one.window.start)[-KEPT_WINDOWS:]
        return self._with(windows=tuple(kept))

    def on_drift(self, event: DriftDetected) -> "PolicyState":
        """An episode opened. Of another version than the champion it is no evidence."""
        if event.episode in self.ended:
            return self._with(ended=tuple(one for one in self.ended if one != event.episode))
        stranger = self.champion is not None and self.champion.version != event.version
        if stranger or any(one.episode == event.episode for one in self.drifts):
            return self
        fresh = OpenDrift(
            episode=event.episode, kind=event.kind, since=event.since, score=event.score, features=event.features
        )
        return self._with(drifts=(*self.drifts, fresh))

    def on_resolved(self, event: DriftResolved) -> "PolicyState":
        """An episode ended."""
        if all(one.episode != event.episode for one in self.drifts):
            return self._with(ended=(*self.ended, event.episode)[-KEPT_ENDED:])
        return self._with(drifts=tuple(one for one in self.drifts if one.episode != event.episode))

    def on_promoted(self, event: Promotion, run: str | None) -> "PolicyState":
        """A new champion.

        Args:
            run: the decision that made it; None: not known here.
        """
        return self.on_champion(_champion(event), closes=run == self.open_run)

    def on_rolled_back(self, event: Promotion) -> "PolicyState":
        """An earlier champion again: what took its place brought nothing; a run on its way goes on."""
        before, state = self.refused, self.on_champion(_champion(event), closes=False)
        return state if state is self else state._with(refused=before + 1)

    def on_champion(self, champion: ChampionState, *, closes: bool = True) -> "PolicyState":
        """A later epoch: its windows, drift and patience start anew. ``closes``: it came of the open run."""
        if self.champion is not None and self.champion.epoch >= champion.epoch:
            return self._closed() if closes else self
        kept = self._closed() if closes else self
        return kept._with(champion=champion, windows=(), drifts=(), refused=0)

    def on_passed(self, run: str, *, acts: bool) -> "PolicyState":
        """A run passed its gates. ``acts``: its promotion follows; else a person's word, which blocks nothing."""
        if run != self.open_run:
            return self
        return self._with(passed=True) if acts else self._closed()

    def on_refused(self, data_time: datetime, *, run: str | None = None, counts: bool = True) -> "PolicyState":
        """A run brought nothing: the next one needs more evidence, if it ``counts``. ``run``: its decision; None: the open."""
        state = self._closed() if run in (None, self.open_run) else self
        return state._with(refused=self.refused + counts)

    def on_released(self) -> "PolicyState":
        """Another pipeline version. What passed under the one before is promoted by now, or by a person; a first model
        that was refused was refused with other code."""
        if self.open_run is None and self.champion is None:
            return self._with(labelled_at_decision=0)
        return self._closed() if self.passed else self

    def on_decided(self, decision: "Decision", decision_id: str) -> "PolicyState":
        """A decision was acted on."""
        return self.on_acted(decision.now, decision_id)

    def on_acted(self, now: datetime, decision_id: str) -> "PolicyState":
        """A decision was acted on at a data time."""
        today = tuple(one for one in self.decided_at if now - one < DAY)
        return self._with(
            open_run=decision_id,
            passed=False,
            decided_at=(*today, now)[-KEPT_RUNS:],
            labelled_at_decision=self.labelled,
        )

    def on_held_back(self) -> "PolicyState":
        """A decision is proposed to a person: rows are counted anew."""
        return self._with(labelled_at_decision=self.labelled)

    def to_json(self) -> str:
        """Canonical JSON."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> "PolicyState":
        """What to_json wrote."""
        return cls.model_validate_json(text)

    def _closed(self) -> "PolicyState":
        return self._with(open_run=None, passed=False)

    def _with(self, **changes: object) -> "PolicyState":
        return self.model_copy(update=changes)


def _champion(event: Promotion) -> ChampionState:
    return ChampionState(
        epoch=event.epoch,
        version=event.version,
        metrics=event.metrics,
        training_window=event.training_window,
        promoted_at=event.data_time,
    )
