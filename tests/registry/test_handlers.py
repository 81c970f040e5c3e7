"""What the registry does: pipelines, versions, the champion pointer, and the way back."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from ctloop.events.errors import ModelNotYetKnown
from ctloop.events.model import (
    DeploymentFailed,
    ModelDeployed,
    ModelPromoted,
    ModelRolledBack,
    ModelValidated,
)
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.values import Verdict
from ctloop.platform.delivery import IdempotencyConflict, Refused
from ctloop_registry.commands import ApplyPipeline, PromoteVersion, RollBack
from ctloop_registry.domain.pointer import Outcome, promotion
from ctloop_registry.store import PointerMoved
from ctloop_registry.store_rows import PointerMove


async def test_passed_candidate_becomes_champion(registry: Any) -> None:
    """A first verdict that passed makes version 1 champion under epoch 1, and the pointer says where its bytes are."""
    (said,) = await registry.judged(1, 0)
    assert isinstance(said, ModelPromoted)
    assert (said.version, said.epoch, said.previous_version) == (1, 1, None)
    pointer = await registry.read(registry.store.pointer.read, registry.model)
    assert (pointer.version, pointer.epoch, pointer.onnx) == (1, 1, registry.template.onnx)
    assert pointer.loop_id is not None and pointer.event_id is not None


async def test_refused_versions_are_numbered_and_stay_candidates(registry: Any) -> None:
    """A refused run takes the next number, the champion stays, and the run after it takes the number after."""
    await registry.judged(1, 0)
    assert await registry.judged(2, 1, Verdict.FAILED) == ()
    (said,) = await registry.judged(3, 1)
    assert said.version == 3 and await registry.epochs() == [(1, 1), (2, 3)]
    (kept,) = await registry.read(registry.store.versions.evidence_of, registry.model, 2)
    assert kept.outcome is Outcome.REFUSED


async def test_stale_verdict_is_kept_and_promotes_nothing(registry: Any) -> None:
    """A verdict against an older champion is recorded as stale; a new one for the same run, same version, promotes."""
    await registry.judged(1, 0)
    await registry.judged(2, 1)
    assert await registry.judged(3, 1) == ()
    (said,) = await registry.judged(3, 2)
    assert (said.version, said.epoch) == (3, 3)
    kept = await registry.read(registry.store.versions.evidence_of, registry.model, 3)
    assert [one.outcome for one in kept] == [Outcome.PROMOTE, Outcome.STALE]


async def test_racing_verdicts_move_the_pointer_once_each(registry: Any) -> None:
    """Verdicts against the same epoch told at once: one promotes, the others are stale, epochs have no gap."""
    await registry.judged(1, 0)
    said = await asyncio.gather(*(registry.judged(run, 1) for run in range(2, 8)))
    assert sum(len(events) for events in said) == 1
    assert [epoch for epoch, _ in await registry.epochs()] == [1, 2]
    versions = await registry.read(registry.store.versions.newest, registry.model, None, 50)
    assert sorted(one.version for one in versions) == [1, 2, 3, 4, 5, 6, 7]


async def test_the_pointer_moves_from_the_epoch_before_only(registry: Any) -> None:
    """A move that skips or repeats an epoch is refused by the compare-and-set itself."""
    (said,) = await registry.judged(1, 0)
    (evidence,) = await registry.read(registry.store.versions.evidence_of, registry.model, 1)
    for epoch in (1, 3):
        fact = promotion(evidence.said, version=1, epoch=epoch, previous_version=None)
        move = PointerMove(
            fact=fact, evidence=evidence.id, moved_by="test", event_id=uuid4(), loop_id=None, traceparent=None,
            since=datetime.now(UTC),
        )  # fmt: skip
        with pytest.raises(PointerMoved):
            async with registry.edge.transaction() as connection:
                await registry.store.pointer.move(connection, move)
    assert await registry.epochs() == [(1, said.version)]


async def test_no_promotion_without_evidence(registry: Any) -> None:
    """The database itself refuses a champion whose evidence is missing, or is another version's."""
    await registry.judged(1, 0)
    await registry.judged(2, 1, Verdict.FAILED)
    (other,) = await registry.read(registry.store.versions.evidence_of, registry.model, 2)
    for evidence, failure in (
        (uuid4(), asyncpg.ForeignKeyViolationError),
        (other.id, asyncpg.ForeignKeyViolationError),
        (None, asyncpg.NotNullViolationError),
    ):
        with pytest.raises(failure):
            async with registry.edge.transaction() as connection:
                await connection.execute("UPDATE champion SET evidence = $1 WHERE version = 1", evidence)


async def test_verdict_before_its_pipeline_waits(registry: Any) -> None:
    """A verdict under a pipeline that was not applied is parked, not lost and not promoted."""
    with pytest.raises(ModelNotYetKnown):
        await registry.judged(1, 0, pipeline_digest="f" * 64)
    assert await registry.epochs() == []


async def test_apply_again_is_the_same_version(registry: Any) -> None:
    """The manifest in force says nothing when it is applied again; another one is the next version."""
    assert await registry.ask(ApplyPipeline(manifest=registry.manifest)) == ()
    changed = registry.manifest.model_copy(update={"trials": registry.manifest.trials + 1})
    (said,) = await registry.ask(ApplyPipeline(manifest=changed))
    assert isinstance(said, PipelineReleased) and said.pipeline_version == 2
    (back,) = await registry.ask(ApplyPipeline(manifest=registry.manifest))
    assert back.pipeline_version == 3


async def test_apply_refuses_what_does_not_fit(registry: Any) -> None:
    """Another digest in force is 412; a record class its dataset cannot hold is 409 with the column's name."""
    changed = registry.manifest.model_copy(update={"trials": registry.manifest.trials + 1})
    with pytest.raises(Refused) as refused:
        await registry.ask(ApplyPipeline(manifest=changed, if_match="0" * 64))
    assert refused.value.status == 412
    record = registry.manifest.record.model_copy(update={"id": "another"})
    other = registry.manifest.model_copy(update={"model": "other", "record": record})
    with pytest.raises(Refused) as refused:
        await registry.ask(ApplyPipeline(manifest=other))
    assert refused.value.status == 409 and "another" in refused.value.detail


async def test_promoting_by_hand_needs_evidence_and_a_reason_against_a_gate(registry: Any) -> None:
    """No version: 404; a refused one: 409 without force and reason; the champion itself: 409."""
    await registry.judged(1, 0)
    await registry.judged(2, 1, Verdict.FAILED)
    for version, status in ((9, 404), (2, 409), (1, 409)):
        with pytest.raises(Refused) as refused:
            await registry.ask(PromoteVersion(model=registry.model, version=version))
        assert refused.value.status == status
    command = PromoteVersion(model=registry.model, version=2, force=True, reason="the gate's rows are odd")
    (said,) = await registry.ask(command)
    assert (said.version, said.epoch, said.evidence) == (2, 2, None)


async def test_rollback_is_a_new_epoch_to_the_champion_before(registry: Any) -> None:
    """Back from 2 is to 1 under epoch 3; then nothing is left to go back to."""
    await registry.judged(1, 0)
    await registry.judged(2, 1)
    (said,) = await registry.ask(RollBack(model=registry.model, reason="slow"))
    assert isinstance(said, ModelRolledBack)
    assert (said.version, said.epoch, said.previous_version) == (1, 3, 2)
    with pytest.raises(Refused) as refused:
        await registry.ask(RollBack(model=registry.model, reason="again"))
    assert refused.value.status == 409 and await registry.epochs() == [(1, 1), (2, 2), (3, 1)]


async def test_a_command_under_an_older_epoch_is_refused(registry: Any) -> None:
    """If-Match with an epoch the pointer has left is 412 and changes nothing."""
    await registry.judged(1, 0)
    await registry.judged(2, 1)
    with pytest.raises(Refused) as refused:
        await registry.ask(RollBack(model=registry.model, reason="slow", if_epoch=1))
    assert refused.value.status == 412 and len(await registry.epochs()) == 2


async def test_a_repeated_command_moves_the_pointer_once(registry: Any) -> None:
    """The same Idempotency-Key and body again says the same fact; another body is a conflict."""
    await registry.judged(1, 0)
    await registry.judged(2, 1)
    command = RollBack(model=registry.model, reason="slow")
    first = await registry.ask(command, key="k")
    assert await registry.ask(command, key="k") == first
    with pytest.raises(IdempotencyConflict):
        await registry.ask(RollBack(model=registry.model, reason="other"), key="k")
    assert len(await registry.epochs()) == 3


async def test_rollback_condition_goes_back_once(registry: Any, measured: Any) -> None:
    """The manifest's condition holds for the champion of now: back; for another epoch, or not holding: nothing."""
    await registry.judged(1, 0)
    await registry.judged(2, 1)
    assert await registry.tell(measured(log_loss=0.5, version=2, epoch=2)) == ()
    assert await registry.tell(measured(log_loss=2.0, version=1, epoch=1)) == ()
    (said,) = await registry.tell(measured(log_loss=2.0, version=2, epoch=2))
    assert isinstance(said, ModelRolledBack) and said.version == 1 and "log_loss" in said.reason
    assert await registry.tell(measured(log_loss=2.0, version=1, epoch=3)) == ()


async def test_history_tells_what_was_live_at_a_time(registry: Any) -> None:
    """At each move's moment its version was live; before the first one nothing was."""
    await registry.judged(1, 0)
    await registry.judged(2, 1)
    moves = await registry.read(registry.store.pointer.history, registry.model)
    at = registry.store.pointer.at
    assert [(await registry.read(at, registry.model, one.since)).version for one in moves] == [1, 2]
    assert await registry.read(at, registry.model, moves[0].since - timedelta(seconds=1)) is None


async def test_deployments_are_kept_per_replica(registry: Any) -> None:
    """A replica that failed and then answered shows both; another replica has a row of its own."""
    said = {"model": registry.model, "version": 1, "epoch": 1}
    await registry.tell(DeploymentFailed(**said, replica="a", reason="digest"))
    for replica in ("a", "b"):
        await registry.tell(
            ModelDeployed(**said, replica=replica, first_answer_at=datetime.now(UTC), load_seconds=0.1, golden=False)
        )
    found = await registry.read(registry.store.pointer.deployments, registry.model, 1)
    assert [(one.replica, one.failure, one.first_answer_at is not None) for one in found] == [
        ("a", "digest", True),
        ("b", None, True),
    ]


async def test_autonomy_propose_leaves_the_promotion_to_a_person(registry: Any) -> None:
    """A model that only proposes keeps the passed version as a proposal; a person promotes it."""
    proposing = registry.manifest.model_copy(update={"autonomy": "propose"})
    await registry.ask(ApplyPipeline(manifest=proposing))
    assert await registry.judged(1, 0, pipeline_digest=proposing.digest) == ()
    (said,) = await registry.ask(PromoteVersion(model=registry.model, version=1))
    assert isinstance(said, ModelPromoted) and isinstance(registry.template, ModelValidated)
