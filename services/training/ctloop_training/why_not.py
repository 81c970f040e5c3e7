"""Why a model is not trained now: what the last decision was, and what waits for whom."""

from uuid import UUID

from ctloop.events.envelope import Value
from ctloop_training.domain.outcomes import Outcome
from ctloop_training.store import Connection, RunState, StoredDecision, TrainingStore


class WhyNot(Value):
    """The latest decision not to train, and what was last acted on."""

    model: str
    sentence: str
    latest: StoredDecision | None
    declined: StoredDecision | None
    acted: StoredDecision | None


async def read_why_not(store: TrainingStore, connection: Connection, model: str) -> WhyNot:
    """The newest decisions of a model, and one sentence about them."""

    async def newest(outcome: Outcome | None) -> StoredDecision | None:
        found = await store.decisions(connection, model, outcome=outcome, before=None, limit=1)
        return found[0] if found else None

    latest = await newest(None)
    return WhyNot(
        model=model,
        sentence=sentence(latest, await store.last_run(connection, model)),
        latest=latest,
        declined=await newest(Outcome.DECLINED),
        acted=await newest(Outcome.ACTED),
    )


def sentence(latest: StoredDecision | None, run: tuple[UUID, RunState] | None) -> str:
    """What the last decision was, and a run that passed and is not promoted.

    >>> sentence(None, None)
    'no window has ended and too few labels have come yet'
    """
    if latest is None:
        return "no window has ended and too few labels have come yet"
    match latest.outcome:
        case Outcome.DECLINED:
            said = latest.reason
        case Outcome.ACTED:
            said = f"it was decided on ({latest.reason}); run {latest.run_id}"
        case Outcome.PROPOSED | Outcome.WATCHED:
            said = f"{latest.reason}: {latest.outcome.value} as decision {latest.id}, which a person may approve"
    if run is not None and run[1] == "passed":
        said += f"; run {run[0]} passed its gates and waits for a person, or for the champion of now, to be promoted"
    return said
