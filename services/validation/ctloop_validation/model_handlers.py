"""Validation's model half: what it does when a model was trained, judged, or when the champion moves."""

from typing import Any
from uuid import UUID

from prometheus_client import Counter

from ctloop.events.envelope import Event
from ctloop.events.model import ModelPromoted, ModelRolledBack, ModelValidated, Promotion
from ctloop.events.training import ModelTrained
from ctloop.events.values import GateResult, Verdict
from ctloop.platform.delivery import UnitOfWork, on
from ctloop.platform.jobs import JobFailed
from ctloop.platform.pipelines import manifest_by_digest
from ctloop_validation.model_job_types import EvaluateModel, ModelEvaluated, model_validated
from ctloop_validation.model_store import Champion, ModelStore

GATES = Counter("ctloop_gate_results", "Gates evaluated, by the gate's name.", ["model", "gate", "outcome"])


def outcome_of(gate: GateResult) -> str:
    """In one word."""
    return "passed" if gate.passed else "failed"


class ModelHandlers:
    """Mixed into ValidationHandlers; ``models`` is its store."""

    models: ModelStore

    async def on_model_trained(self, event: ModelTrained, work: UnitOfWork) -> tuple[Event, ...]:
        """Judge a candidate against the champion of now."""
        await self.models.lock(work.connection, event.model)
        await self.models.add_candidate(work.connection, event, work.cause.loop_id, work.now)
        await self._challenge(event, work, work.cause.loop_id)
        return ()

    async def on_model_evaluated(self, done: ModelEvaluated, work: UnitOfWork) -> tuple[Event, ...]:
        """Say the verdict; when the champion has moved meanwhile it is stale, and the candidate challenges again."""
        await self.models.lock(work.connection, done.trained.model)
        champion = await self.models.champion(work.connection, done.trained.model)
        if champion is not None and champion.epoch > done.champion_epoch:
            await self._challenge(done.trained, work, work.cause.loop_id)
            return ()
        said = model_validated(done)
        await self.models.judge(work.connection, said)
        for gate in said.gates:
            GATES.labels(said.model, gate.name, outcome_of(gate)).inc()
        return (said,)

    async def on_evaluation_failed(self, failed: JobFailed[Any], work: UnitOfWork) -> tuple[Event, ...]:
        """Without an evaluation there is no promotion: refused, with the reason as a gate."""
        job: EvaluateModel = failed.job
        gate = GateResult(name="evaluated", passed=False, note=failed.message.strip().splitlines()[-1][:500])
        done = ModelEvaluated(
            trained=job.trained,
            champion_epoch=job.champion.epoch if job.champion else 0,
            verdict=Verdict.FAILED,
            gates=(gate,),
            evidence=job.trained.capsule,
        )
        return await self.on_model_evaluated(done, work)

    async def on_model_promoted(self, event: ModelPromoted, work: UnitOfWork) -> tuple[Event, ...]:
        """The newest that passed against an earlier champion and is not decided yet challenges this one."""
        return await self._champion_moved(event, work)

    async def on_model_rolled_back(self, event: ModelRolledBack, work: UnitOfWork) -> tuple[Event, ...]:
        """The same for a champion that came back."""
        return await self._champion_moved(event, work)

    async def _champion_moved(self, event: Promotion, work: UnitOfWork) -> tuple[Event, ...]:
        await self.models.lock(work.connection, event.model)
        await self.models.promoted(work.connection, event.run_id)
        if await self.models.move_champion(work.connection, event.model, Champion.of(event)):
            candidate = await self.models.waiting(work.connection, event.model, event.epoch)
            if candidate is not None:
                await self._challenge(candidate.trained, work, candidate.loop_id)
        return ()

    async def _challenge(self, trained: ModelTrained, work: UnitOfWork, loop_id: UUID | None) -> None:
        manifest = await manifest_by_digest(work.connection, trained.pipeline_digest)
        champion = await self.models.champion(work.connection, trained.model)
        await work.jobs.add(EvaluateModel(trained=trained, champion=champion, manifest=manifest), loop_id=loop_id)


MODEL_HEARS = (
    on(ModelTrained, ModelHandlers.on_model_trained),
    on(ModelPromoted, ModelHandlers.on_model_promoted),
    on(ModelRolledBack, ModelHandlers.on_model_rolled_back),
    on(ModelEvaluated, ModelHandlers.on_model_evaluated, says=(ModelValidated,)),
)
