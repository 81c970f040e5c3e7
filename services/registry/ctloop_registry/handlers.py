"""What the registry does with each fact it hears and each command it is given."""

from typing import Any
from uuid import UUID

from ctloop.events.envelope import Event, derived_id
from ctloop.events.errors import ModelNotYetKnown
from ctloop.events.manifest import Manifest
from ctloop.events.model import (
    DeploymentFailed,
    ModelDeployed,
    ModelPromoted,
    ModelRolledBack,
    ModelValidated,
    PerformanceMeasured,
)
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.pointer import ChampionPointer
from ctloop.events.values import Verdict
from ctloop.platform.delivery import Refused, UnitOfWork, on
from ctloop.platform.jobs import JobFailed
from ctloop_registry.commands import ApplyPipeline, PromoteVersion, RollBack
from ctloop_registry.domain.pointer import Outcome, judge, promotion, rollback_target, rolled_back
from ctloop_registry.domain.releases import first_clash
from ctloop_registry.domain.watch import fires
from ctloop_registry.projection import ChampionProjected, ProjectChampion, ProjectVersion, VersionProjected
from ctloop_registry.store import RegistryStore, moves
from ctloop_registry.store_rows import Evidence, PointerMove


def refused(status: int, code: str, title: str, detail: str, hint: str = "") -> Refused:
    """A command that is said no to."""
    return Refused(status, code, title, detail=detail, hint=hint)


class RegistryHandlers:
    """One model's versions and pointer change in one transaction at a time: its row is locked first."""

    def __init__(self, store: RegistryStore) -> None:
        self.store = store

    # What it hears

    async def on_model_validated(self, said: ModelValidated, work: UnitOfWork) -> tuple[Event, ...]:
        """Number the version, keep the evidence, and promote when the verdict is about the champion of now."""
        manifest = await self.store.pipelines.manifest(work.connection, said.pipeline_digest)
        if manifest is None:
            raise ModelNotYetKnown(f"pipeline {said.pipeline_digest[:12]} of {said.model!r} was not applied here")
        await self.store.pointer.lock(work.connection, said.model)
        version = await self.store.versions.number(work.connection, said, work.now)
        now = await self.store.pointer.read(work.connection, said.model)
        in_force = await self._in_force(said.model, work)
        outcome = judge(
            said,
            version=version,
            champion=now and (now.version, now.epoch),
            autonomy=(manifest.autonomy, in_force.autonomy),
            was_champion=await self.store.pointer.promotion_of(work.connection, said.model, version) is not None,
        )
        evidence = await self._keep(said, version, outcome, work)
        if outcome is not Outcome.PROMOTE:
            return ()
        return await self._promote(evidence, now, work, moved_by="registry")

    async def on_performance_measured(self, said: PerformanceMeasured, work: UnitOfWork) -> tuple[Event, ...]:
        """Go back when the rollback condition in force holds for the champion of now."""
        await self.store.pointer.lock(work.connection, said.model)
        now = await self.store.pointer.read(work.connection, said.model)
        if now is None or (now.version, now.epoch) != (said.version, said.epoch) or not said.final:
            return ()
        manifest = await self._in_force(said.model, work)
        if manifest.rollback is None or not fires(manifest.rollback, said):
            return ()
        target = await self._target(work, now)
        if target is None:
            return ()
        return await self._go_back(now, target, work, moved_by="condition", reason=manifest.rollback.text)

    async def on_model_deployed(self, said: ModelDeployed, work: UnitOfWork) -> tuple[Event, ...]:
        """Keep that a replica answers with an epoch."""
        await self.store.pointer.deployed(work.connection, said)
        return ()

    async def on_deployment_failed(self, said: DeploymentFailed, work: UnitOfWork) -> tuple[Event, ...]:
        """Keep why a replica could not take an epoch."""
        await self.store.pointer.failed(work.connection, said, work.cause.time)
        return ()

    # What it is asked

    async def apply(self, command: ApplyPipeline, work: UnitOfWork) -> tuple[Event, ...]:
        """Release a manifest; the one in force already changes nothing and says nothing."""
        manifest = command.manifest
        await self.store.pointer.lock(work.connection, manifest.model)
        now = await self.store.pipelines.in_force(work.connection, manifest.model)
        digest = now.digest if now else ""
        if command.if_match is not None and command.if_match != digest and not (digest and command.if_match == "*"):
            raise refused(412, "CT3206", "another pipeline is in force", f"{now.digest if now else 'none'} is in force")
        if now is not None and now.digest == manifest.digest:
            return ()
        others = await self.store.pipelines.over_dataset(work.connection, manifest.record.dataset)
        if why := first_clash(manifest, others):
            raise refused(409, "CT3207", "the record class does not fit its dataset", why)
        number = await self.store.pipelines.next_number(work.connection, manifest.model)
        await self.store.pipelines.add(work.connection, manifest, number, work.now)
        return (
            PipelineReleased(model=manifest.model, pipeline_version=number, digest=manifest.digest, manifest=manifest),
        )

    async def promote(self, command: PromoteVersion, work: UnitOfWork) -> tuple[Event, ...]:
        """Promote by hand: with evidence always, against a failed verdict only by force and with a reason."""
        now = await self._pointer_for(command.model, command.if_epoch, work)
        judged = await self.store.versions.evidence_of(work.connection, command.model, command.version)
        if not judged:
            raise refused(404, "CT3202", "no such version", f"{command.model}@{command.version} was never validated")
        if now is not None and now.version == command.version:
            raise refused(409, "CT3204", "it is champion already", f"{command.model}@{command.version}")
        if judged[0].said.verdict is Verdict.FAILED and not (command.force and command.reason):
            failed = ", ".join(gate.name for gate in judged[0].said.gates if not gate.passed)
            raise refused(409, "CT3203", "a gate refused this version", f"{command.model}@{command.version}: {failed}")
        return await self._promote(judged[0], now, work, moved_by="person", reason=command.reason)

    async def roll_back(self, command: RollBack, work: UnitOfWork) -> tuple[Event, ...]:
        """Go back to the champion before, or to a named earlier one."""
        now = await self._pointer_for(command.model, command.if_epoch, work)
        if now is None:
            raise refused(404, "CT3201", "no champion", f"{command.model!r} has no champion yet")
        target = command.to if command.to is not None else await self._target(work, now)
        if target is None or target == now.version:
            raise refused(409, "CT3205", "nothing to go back to", f"{command.model}@{now.version} has none before it")
        return await self._go_back(now, target, work, moved_by="person", reason=command.reason)

    async def on_projected(self, done: VersionProjected | ChampionProjected, work: UnitOfWork) -> tuple[Event, ...]:
        """MLflow shows it; nothing of ours rests on that."""
        return ()

    async def on_projection_failed(self, failed: JobFailed[Any], work: UnitOfWork) -> tuple[Event, ...]:
        """MLflow refused for good: the row of the job keeps why; nothing of ours rests on it."""
        return ()

    # What they share

    async def _in_force(self, model: str, work: UnitOfWork) -> Manifest:
        release = await self.store.pipelines.in_force(work.connection, model)
        manifest = release and await self.store.pipelines.manifest(work.connection, release.digest)
        assert manifest is not None, "a version was made by a pipeline of its model"
        return manifest

    async def _keep(self, said: ModelValidated, version: int, outcome: Outcome, work: UnitOfWork) -> Evidence:
        evidence = Evidence(
            id=work.cause.id,
            model=said.model,
            version=version,
            outcome=outcome,
            said=said,
            recorded_at=work.now,
            loop_id=work.cause.loop_id,
        )
        await self.store.versions.add_evidence(work.connection, evidence, work.cause.time)
        await work.jobs.add(ProjectVersion.of(said, version))
        return evidence

    async def _pointer_for(self, model: str, if_epoch: int | None, work: UnitOfWork) -> ChampionPointer | None:
        if await self.store.pipelines.in_force(work.connection, model) is None:
            raise refused(404, "CT3201", "no such model", f"{model!r} was never applied", "ctloop model ls")
        await self.store.pointer.lock(work.connection, model)
        now = await self.store.pointer.read(work.connection, model)
        epoch = now.epoch if now else 0
        if if_epoch is not None and if_epoch != epoch:
            raise refused(412, "CT3206", "the pointer has moved", f"{model!r} is at epoch {epoch}, not {if_epoch}")
        return now

    async def _target(self, work: UnitOfWork, now: ChampionPointer) -> int | None:
        history = await self.store.pointer.history(work.connection, now.model)
        return rollback_target(moves(history), now.version)

    async def _promote(
        self, evidence: Evidence, now: ChampionPointer | None, work: UnitOfWork, *, moved_by: str, reason: str = ""
    ) -> tuple[Event, ...]:
        fact = promotion(
            evidence.said,
            version=evidence.version,
            epoch=now.epoch + 1 if now else 1,
            previous_version=now.version if now else None,
            by_person=moved_by == "person",
        )
        return await self._move(fact, evidence.id, work, moved_by, reason, loop_id=evidence.loop_id)

    async def _go_back(
        self, now: ChampionPointer, to: int, work: UnitOfWork, *, moved_by: str, reason: str
    ) -> tuple[Event, ...]:
        judged = await self.store.pointer.promotion_of(work.connection, now.model, to)
        if judged is None:
            raise refused(409, "CT3205", "nothing to go back to", f"{now.model}@{to} was never champion")
        promoted, evidence = judged
        fact = rolled_back(promoted, epoch=now.epoch + 1, previous_version=now.version, reason=reason)
        return await self._move(fact, evidence, work, moved_by, reason)

    async def _move(
        self,
        fact: ModelPromoted | ModelRolledBack,
        evidence: UUID,
        work: UnitOfWork,
        moved_by: str,
        reason: str,
        loop_id: UUID | None = None,
    ) -> tuple[Event, ...]:
        move = PointerMove(
            fact=fact,
            evidence=evidence,
            moved_by=moved_by,
            reason=reason,
            event_id=derived_id(work.cause.id, fact.type(), fact.discriminator),
            loop_id=work.cause.loop_id or loop_id,
            traceparent=work.traceparent,
            since=work.now,
        )
        await self.store.pointer.move(work.connection, move)
        await work.jobs.add(ProjectChampion(model=fact.model, epoch=fact.epoch, version=fact.version))
        return (fact,)


HEARS = (
    on(ModelValidated, RegistryHandlers.on_model_validated, says=(ModelPromoted,)),
    on(ModelDeployed, RegistryHandlers.on_model_deployed, commutative=True),
    on(DeploymentFailed, RegistryHandlers.on_deployment_failed, commutative=True),
    on(PerformanceMeasured, RegistryHandlers.on_performance_measured, says=(ModelRolledBack,)),
    on(ApplyPipeline, RegistryHandlers.apply, says=(PipelineReleased,)),
    on(PromoteVersion, RegistryHandlers.promote, says=(ModelPromoted,)),
    on(RollBack, RegistryHandlers.roll_back, says=(ModelRolledBack,)),
    on(VersionProjected, RegistryHandlers.on_projected),
    on(ChampionProjected, RegistryHandlers.on_projected),
)
