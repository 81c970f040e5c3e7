"""What becomes of a decision, by how far the user lets it go."""

from enum import StrEnum
from typing import Literal, assert_never

Autonomy = Literal["watch", "propose", "act"]


class Outcome(StrEnum):
    """Of a decision."""

    ACTED = "acted"
    PROPOSED = "proposed"
    WATCHED = "watched"
    DECLINED = "declined"


def outcome(acts: bool, autonomy: Autonomy, *, by_person: bool = False) -> Outcome:
    """A person's own decision is always acted on; the policy's as far as the manifest allows.

    >>> outcome(True, "propose")
    <Outcome.PROPOSED: 'proposed'>
    """
    if not acts:
        return Outcome.DECLINED
    if by_person:
        return Outcome.ACTED
    match autonomy:
        case "act":
            return Outcome.ACTED
        case "propose":
            return Outcome.PROPOSED
        case "watch":
            return Outcome.WATCHED
        case _:
            assert_never(autonomy)
