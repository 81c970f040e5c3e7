"""Why a version is what it is: the decision with its tree, what it rests on, the run, the gates, the pointer's move."""

from collections.abc import Sequence
from typing import TypeVar
from uuid import UUID

from pydantic import Field

from ctloop.events.envelope import Event, Value
from ctloop.events.model import ModelPromoted, ModelRolledBack, ModelValidated
from ctloop.events.training import ModelTrained, RetrainDecided, TrainingFailed
from ctloop_console.domain.facts import Fact, Line, trace_id
from ctloop_console.domain.loops import Loop, fold_loop
from ctloop_console.domain.sentences import sentence

E = TypeVar("E", bound=Event)


class Why(Value):
    """The answer to why, as far as the facts that were heard tell it."""

    model: str
    version: int | None = Field(description="None: it was never promoted.")
    run_id: UUID | None
    sentence: str = Field(description="The whole story in one sentence.")
    decision: RetrainDecided | None = Field(description="With the condition tree and each node's value.")
    causes: tuple[Line, ...] = Field(description="The facts the decision rests on, as far as the console heard them.")
    trained: ModelTrained | None
    failed: TrainingFailed | None
    validated: tuple[ModelValidated, ...] = Field(description="Each judgement, oldest first: gates with both values.")
    promoted: ModelPromoted | None
    rolled_back: tuple[ModelRolledBack, ...] = Field(description="Moves back to this version.")
    loop: Loop | None


def line(fact: Fact, *, with_data: bool = False) -> Line:
    """A fact as people read it."""
    return Line(
        seq=fact.seq,
        id=fact.id,
        time=fact.time,
        service=fact.service,
        fact=fact.name,
        topic=fact.topic,
        subject=fact.subject,
        sentence=sentence(fact.event),
        loop_id=fact.loop_id,
        causation_id=fact.causation_id,
        trace_id=trace_id(fact.traceparent),
        data=fact.event.model_dump(mode="json") if with_data else {},
    )


def explain(model: str, run_facts: Sequence[Fact], loop_facts: Sequence[Fact], causes: Sequence[Fact]) -> Why:
    """Why, from the facts of one run.

    Args:
        model: the model.
        run_facts: every fact that names the run.
        loop_facts: every fact of the loop that made it; empty when it is not known.
        causes: the facts the decision rests on.
    """
    facts = sorted({fact.id: fact for fact in (*run_facts, *loop_facts)}.values(), key=lambda fact: fact.time)
    decided = next((fact for fact in facts if fact.of(RetrainDecided)), None)
    judged = tuple(said for fact in facts if (said := fact.of(ModelValidated)) is not None)
    promoted = _last(facts, ModelPromoted)
    trained, failed = _last(facts, ModelTrained), _last(facts, TrainingFailed)
    parts: tuple[Event | None, ...] = (
        decided.event if decided else None,
        failed or trained,
        judged[-1] if judged else None,
        promoted,
    )
    return Why(
        model=model,
        version=promoted and promoted.version,
        run_id=next((one.run_id for one in (promoted, trained, failed, *judged) if one is not None), None),
        sentence="; ".join(sentence(part) for part in parts if part is not None) or "nothing is known of it",
        decision=decided.of(RetrainDecided) if decided else None,
        causes=tuple(line(cause) for cause in sorted(causes, key=lambda fact: fact.time)),
        trained=trained,
        failed=failed,
        validated=judged,
        promoted=promoted,
        rolled_back=tuple(said for fact in facts if (said := fact.of(ModelRolledBack)) is not None),
        loop=fold_loop(decided, loop_facts, causes) if decided else None,
    )


def _last(facts: Sequence[Fact], kind: type[E]) -> E | None:
    return next((said for fact in reversed(facts) if (said := fact.of(kind)) is not None), None)
