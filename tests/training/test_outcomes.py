"""How far a decision goes."""

import pytest

from ctloop_training.domain.outcomes import Autonomy, Outcome, outcome


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
