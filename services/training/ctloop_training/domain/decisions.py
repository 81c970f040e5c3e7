"""A decision of the policy as the fact that is said of it."""

from datetime import datetime, timedelta
from uuid import UUID

from ctloop.events.manifest import Manifest
from ctloop.events.training import RetrainDecided
from ctloop.events.values import DatasetVersion, Window
from ctloop.policy.decide import Decision
from ctloop.policy.state import PolicyState


def retrain_decided(
    decision: Decision, manifest: Manifest, decision_id: UUID, causes: tuple[UUID, ...], version: DatasetVersion
) -> RetrainDecided:
    """The fact of a decision that acts."""
    assert decision.trigger is not None, "a decision that acts has a trigger"
    return RetrainDecided(
        model=manifest.model,
        decision_id=decision_id,
        trigger=decision.trigger,
        reason=decision.reason,
        tree=decision.tree,
        causes=causes,
        data_time=decision.now,
        dataset=manifest.record.dataset,
        dataset_version=version,
        window=Window(start=decision.since, end=decision.now),
    )


def read_until(fact: RetrainDecided) -> datetime:
    """Data time before which labels are read.

    A tick decides at the end of a window, which is not in it. A first model and a person decide on the newest label
    there is, and that one counts: labels that come in their row all have the time of their arrival.
    """
    at_newest = fact.trigger in ("first-model", "manual")
    return fact.data_time + timedelta(microseconds=1) if at_newest else fact.data_time


def behind(data_time: datetime | None, now: datetime) -> bool:
    """Whether the newest dataset version known here does not reach a data time yet."""
    return data_time is None or data_time < now


def ahead(epoch: int, state: PolicyState) -> bool:
    """Whether a fact is about a champion that is not known here yet."""
    return state.champion is None or state.champion.epoch < epoch
