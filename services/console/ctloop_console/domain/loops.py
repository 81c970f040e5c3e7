"""A loop folded from its facts: its hops, its state, and where its time went. The order of facts does not matter."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

from pydantic import AwareDatetime, Field

from ctloop.events.envelope import Event, Value
from ctloop.events.model import ModelDeployed, ModelPromoted, ModelValidated
from ctloop.events.topics import FACTS
from ctloop.events.training import ModelTrained, RetrainDecided, TrainingFailed, TrainingStarted
from ctloop.events.values import Verdict
from ctloop_console.domain.facts import Fact, trace_id
from ctloop_console.domain.sentences import sentence

E = TypeVar("E", bound=Event)

ORDER = {fact.event.topic: place for place, fact in enumerate(FACTS)}


class LoopState(StrEnum):
    """How far a loop has come."""

    DECIDED = "decided"
    TRAINING = "training"
    TRAINED = "trained"
    FAILED = "failed"
    """The run ended without a model."""
    REFUSED = "refused"
    """A gate said no: the loop is closed."""
    VALIDATED = "validated"
    """It passed but was not promoted: the champion moved meanwhile, or a person decides."""
    PROMOTED = "promoted"
    CLOSED = "closed"
    """The promoted version has answered."""


class Hop(Value):
    """One fact of a loop and the time since the one before."""

    id: UUID
    fact: str
    service: str
    time: AwareDatetime
    seconds: float = Field(description="Since the hop before; 0 for the first.")
    sentence: str


class Loop(Value):
    """One acted decision and what became of it."""

    loop_id: UUID
    model: str
    number: int = Field(default=0, description="Of the loop among the model's, from 1, by time of the decision.")
    state: LoopState
    trigger: str
    reason: str
    decided_at: AwareDatetime
    ended_at: AwareDatetime | None = Field(description="First answer, refusal or failure; None: it still runs.")
    run_id: UUID | None
    version: int | None = Field(description="Of the promoted model; None: not promoted.")
    epoch: int | None
    cause_to_decision_seconds: float | None = Field(description="From the fact that completed its causes.")
    decision_to_answer_seconds: float | None = Field(description="To the first answer of the promoted version.")
    user_seconds: float = Field(description="In the user's function and in the gate's replay.")
    platform_seconds: float | None = Field(description="Decision to answer without the user's.")
    trace_id: str | None
    hops: tuple[Hop, ...]


def fold_loop(decided: Fact, facts: Sequence[Fact], causes: Sequence[Fact] = ()) -> Loop:
    """The loop of a decision.

    Args:
        decided: its RetrainDecided.
        facts: every fact that carries its loop id, in any order, the decision included or not.
        causes: what is known of the facts it rests on; the latest completed it.
    """
    said = decided.of(RetrainDecided)
    assert said is not None, "a loop begins with a RetrainDecided"
    ordered = sorted({fact.id: fact for fact in (decided, *facts)}.values(), key=lambda f: (f.time, ORDER[f.topic]))
    promoted = _first(ordered, ModelPromoted)
    answered = _first_answer(ordered, promoted)
    state = _state(ordered, promoted is not None, answered is not None)
    to_answer = (answered - decided.time).total_seconds() if answered else None
    user = _user_seconds(ordered)
    started = _first(ordered, TrainingStarted) or _first(ordered, ModelTrained) or _first(ordered, TrainingFailed)
    return Loop(
        loop_id=decided.id,
        model=said.model,
        state=state,
        trigger=said.trigger,
        reason=said.reason,
        decided_at=decided.time,
        ended_at=answered or (ordered[-1].time if state in (LoopState.REFUSED, LoopState.FAILED) else None),
        run_id=started and started.run_id,
        version=promoted and promoted.version,
        epoch=promoted and promoted.epoch,
        cause_to_decision_seconds=(decided.time - max(c.time for c in causes)).total_seconds() if causes else None,
        decision_to_answer_seconds=to_answer,
        user_seconds=user,
        platform_seconds=max(0.0, to_answer - user) if to_answer is not None else None,
        trace_id=trace_id(decided.traceparent),
        hops=_hops(ordered),
    )


def _first(facts: Sequence[Fact], kind: type[E]) -> E | None:
    return next((said for fact in facts if (said := fact.of(kind)) is not None), None)


def _all(facts: Sequence[Fact], kind: type[E]) -> list[E]:
    return [said for fact in facts if (said := fact.of(kind)) is not None]


def _first_answer(facts: Sequence[Fact], promoted: ModelPromoted | None) -> datetime | None:
    epoch = promoted and promoted.epoch
    answers = [one.first_answer_at for one in _all(facts, ModelDeployed) if epoch is None or one.epoch == epoch]
    return min(answers, default=None)


def _state(facts: Sequence[Fact], promoted: bool, answered: bool) -> LoopState:
    if answered:
        return LoopState.CLOSED
    if promoted:
        return LoopState.PROMOTED
    judged = _all(facts, ModelValidated)
    if judged:
        return LoopState.REFUSED if judged[-1].verdict is Verdict.FAILED else LoopState.VALIDATED
    present = {fact.topic for fact in facts}
    for kind, state in (
        (TrainingFailed, LoopState.FAILED),
        (ModelTrained, LoopState.TRAINED),
        (TrainingStarted, LoopState.TRAINING),
    ):
        if kind.topic in present:
            return state
    return LoopState.DECIDED


def _user_seconds(facts: Sequence[Fact]) -> float:
    trained = sum(one.user_seconds for one in _all(facts, ModelTrained))
    return trained + sum(one.replay_seconds for one in _all(facts, ModelValidated))


def _hops(facts: Sequence[Fact]) -> tuple[Hop, ...]:
    hops: list[Hop] = []
    for fact in facts:
        before = hops[-1].time if hops else fact.time
        hops.append(
            Hop(
                id=fact.id,
                fact=fact.name,
                service=fact.service,
                time=fact.time,
                seconds=(fact.time - before).total_seconds(),
                sentence=sentence(fact.event),
            )
        )
    return tuple(hops)
