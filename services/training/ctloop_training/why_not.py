"""Why a model is not trained now: what the last decision was, and what waits for whom."""

from ctloop.events.envelope import Value
from ctloop_training.domain.outcomes import Outcome
from ctloop_training.store import Connection, LastRun, StoredDecision, TrainingStore


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


def sentence(latest: StoredDecision | None, run: LastRun | None) -> str:
    """What the last decision was, and the run that is on its way, passed and is not promoted, or brought no model.

    >>> sentence(None, None)
    'no window has ended and too few labels have come yet'
    """
    if latest is None:
        return "no window has ended and too few labels have come yet"
    return _decided(latest) + (_waits(run) if run is not None else "")


def _decided(latest: StoredDecision) -> str:
    match latest.outcome:
        case Outcome.DECLINED:
            return latest.reason
        case Outcome.ACTED:
            return f"it was decided on: {latest.reason}"
        case Outcome.PROPOSED | Outcome.WATCHED:
            return f"{latest.reason}: {latest.outcome.value}; a person may say: ctloop approve {latest.id}"


def _waits(run: LastRun) -> str:
    since = f"asked for at {run.asked_at:%Y-%m-%d %H:%M:%S} UTC"
    match run.state:
        case "open":
            return f"; run {run.id}, {since}, has not ended"
        case "trained":
            return f"; run {run.id}, {since}, is being judged"
        case "passed":
            return f"; run {run.id} passed its gates and waits for a person, or for the champion of now, to be promoted"
        case "failed":
            said = f", {run.failed.reason}: {run.failed.message}" if run.failed else ""
            return f"; the last run, {run.id}, FAILED{said}"
        case "refused":
            return f"; the last run was refused by the gates: ctloop why {run.id}"
        case "promoted":
            return ""
