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
KEPT_RUNS = 64


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
    decided_at: tuple[AwareDatetime, ...] = ()
    """Data times of decisions that were acted on, oldest first."""
    labelled_at_decision: int = 0

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

    def on_performance(self, event: PerformanceMeasured) -> "PolicyState":
        """A window was measured, or measured again."""
        if not self.is_champion(event.epoch):
            return self
        fresh = MeasuredWindow(window=event.window, labels=event.labels, metrics=event.metrics)
        others = [one for one in self.windows if one.window.start != event.window.start]
        kept = sorted((*others, fresh), key=lambda one: one.window.start)[-KEPT_WINDOWS:]
        return self._with(windows=tuple(kept))

    def on_drift(self, event: DriftDetected) -> "PolicyState":
        """An episode opened."""
        if any(one.episode == event.episode for one in self.drifts):
            return self
        fresh = OpenDrift(
            episode=event.episode, kind=event.kind, since=event.since, score=event.score, features=event.features
        )
        return self._with(drifts=(*self.drifts, fresh))

    def on_resolved(self, event: DriftResolved) -> "PolicyState":
        """An episode ended."""
        return self._with(drifts=tuple(one for one in self.drifts if one.episode != event.episode))

    def on_promoted(self, event: Promotion) -> "PolicyState":
        """A new champion, or an earlier one again."""
        return self.on_champion(
            ChampionState(
                epoch=event.epoch,
                version=event.version,
                metrics=event.metrics,
                training_window=event.training_window,
                promoted_at=event.data_time,
            )
        )

    def on_champion(self, champion: ChampionState) -> "PolicyState":
        """A later epoch: its windows, drift and patience start anew."""
        if self.champion is not None and self.champion.epoch >= champion.epoch:
            return self
        return self._with(champion=champion, windows=(), drifts=(), refused=0, open_run=None)

    def on_refused(self, data_time: datetime) -> "PolicyState":
        """A run brought nothing: the next one needs more evidence."""
        return self._with(refused=self.refused + 1, open_run=None)

    def on_decided(self, decision: "Decision", decision_id: str) -> "PolicyState":
        """A decision was acted on."""
        return self._with(
            open_run=decision_id,
            decided_at=(*self.decided_at, decision.now)[-KEPT_RUNS:],
            labelled_at_decision=self.labelled,
        )

    def to_json(self) -> str:
        """Canonical JSON."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> "PolicyState":
        """What to_json wrote."""
        return cls.model_validate_json(text)

    def _with(self, **changes: object) -> "PolicyState":
        return self.model_copy(update=changes)
