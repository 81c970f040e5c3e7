"""How far a decision goes."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from ctloop.events.training import TrainingFailed
from ctloop.events.values import EvaluatedNode
from ctloop_training.domain.outcomes import Autonomy, Outcome, outcome
from ctloop_training.store import LastRun, RunState, StoredDecision
from ctloop_training.why_not import sentence

RUN = UUID(int=7)
FAILED = TrainingFailed(
    model="m", run_id=RUN, decision_id=RUN, reason="export-failed", message="Nystroem has no conversion", attempts=1
)


@pytest.mark.parametrize(
    ("acts", "autonomy", "by_person", "expected"),
    [
        (False, "act", False, Outcome.DECLINED),
        (True, "act", False, Outcome.ACTED),
        (True, "propose", False, Outcome.PROPOSED),
        (True, "watch", False, Outcome.WATCHED),
        (True, "watch", True, Outcome.ACTED),
        (True, "propose", True, Outcome.ACTED),
    ],
)
def test_outcome(acts: bool, autonomy: Autonomy, by_person: bool, expected: Outcome) -> None:
    """The policy acts as far as the manifest allows, a person always."""
    assert outcome(acts, autonomy, by_person=by_person) is expected


@pytest.mark.parametrize(
    ("state", "failed", "said"),
    [
        ("failed", FAILED, "FAILED, export-failed: Nystroem has no conversion"),
        ("refused", None, f"refused by the gates: ctloop why {RUN}"),
    ],
)
def test_why_not_says_what_the_last_run_came_to(state: RunState, failed: TrainingFailed | None, said: str) -> None:
    """Whoever asks why there is no model finds the reason there."""
    run = LastRun(id=RUN, state=state, asked_at=datetime(2026, 1, 1, tzinfo=UTC), failed=failed)
    tree = EvaluatedNode(text="labelled >= 100", op="ge", value=True)
    latest = StoredDecision(
        id=RUN, model="m", outcome=Outcome.ACTED, trigger="first-model", reason="no model yet", tree=tree,
        data_time=run.asked_at, decided_at=run.asked_at,
    )  # fmt: skip
    assert sentence(latest, run).startswith("it was decided on: no model yet; ") and sentence(latest, run).endswith(
        said
    )
