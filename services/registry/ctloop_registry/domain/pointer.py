"""Where the champion pointer goes next: pure decisions about one model's versions."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Literal

from ctloop.events.model import ModelPromoted, ModelRolledBack, ModelValidated
from ctloop.events.values import TrafficShare, Verdict

Autonomy = Literal["watch", "propose", "act"]


class Outcome(StrEnum):
    """What the registry concluded from one judgement."""

    PROMOTE = "promoted"
    REFUSED = "refused"
    """A gate failed."""
    STALE = "stale"
    """Compared with a champion that is no longer it; validation challenges again."""
    PROPOSED = "proposed"
    """It passed, but a person promotes this model."""
    CHAMPION = "champion"
    """It is the champion already."""
    RETIRED = "retired"
    """It was champion and was rolled away from: only a person brings it back."""


def judge(
    said: ModelValidated,
    *,
    version: int,
    champion: tuple[int, int] | None,
    autonomy: Iterable[Autonomy],
    was_champion: bool = False,
) -> Outcome:
    """What follows from a verdict.

    Args:
        champion: the pointer as (version, epoch); None before the first promotion.
        autonomy: of the file the version was trained by, and of the file in force: both must say act.
        was_champion: the version was promoted before.
    """
    champion_version, epoch = champion or (None, 0)
    if said.verdict is Verdict.FAILED:
        return Outcome.REFUSED
    if champion_version == version:
        return Outcome.CHAMPION
    if was_champion:
        return Outcome.RETIRED
    if said.champion_epoch != epoch:
        return Outcome.STALE
    return Outcome.PROMOTE if all(one == "act" for one in autonomy) else Outcome.PROPOSED


def _whole(version: int) -> tuple[TrafficShare, ...]:
    return (TrafficShare(version=version, percent=100.0),)


def promotion(
    said: ModelValidated, *, version: int, epoch: int, previous_version: int | None, by_person: bool = False
) -> ModelPromoted:
    """The fact that a version is champion under an epoch, from the judgement it rests on."""
    return ModelPromoted(
        model=said.model,
        version=version,
        run_id=said.run_id,
        digest=said.onnx.sha256,
        onnx=said.onnx,
        golden=said.golden,
        signature=said.signature,
        pipeline_digest=said.pipeline_digest,
        epoch=epoch,
        dataset=said.dataset,
        dataset_version=said.dataset_version,
        training_window=said.training_window,
        metrics=said.metrics,
        traffic=_whole(version),
        previous_version=previous_version,
        data_time=said.gate_window.end,
        evidence=None if by_person else said.evidence,
        gates=said.gates,
    )


def rolled_back(to: ModelPromoted, *, epoch: int, previous_version: int, reason: str) -> ModelRolledBack:
    """The fact that the pointer goes back to what an earlier promotion promoted, under a new epoch."""
    kept = to.model_dump(exclude={"evidence", "gates"})
    return ModelRolledBack.model_validate(
        {
            **kept,
            "epoch": epoch,
            "previous_version": previous_version,
            "traffic": _whole(to.version),
            "reason": reason,
        }
    )


class Move(StrEnum):
    """The two ways the pointer moves."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"


def rollback_target(moves: Sequence[tuple[int, Move]], current: int) -> int | None:
    """The version to go back to: the one that was champion when the current one was last promoted.

    Args:
        moves: (version, move) of every epoch, oldest first.
        current: the champion now.

    A version that was rolled away from is never gone back to: after 1, 2, back to 1, nothing is left.

    >>> rollback_target([(1, Move.PROMOTED), (2, Move.PROMOTED), (3, Move.PROMOTED)], 3)
    2
    >>> rollback_target([(1, Move.PROMOTED), (2, Move.PROMOTED), (1, Move.ROLLED_BACK)], 1) is None
    True
    """
    for index in range(len(moves) - 1, -1, -1):
        version, move = moves[index]
        if version == current and move is Move.PROMOTED:
            return moves[index - 1][0] if index else None
    return None
