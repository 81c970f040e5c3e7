"""What training does with each fact it hears, each run that ends, and each thing it is asked."""

from collections.abc import Callable
from uuid import UUID

from prometheus_client import Counter

from ctloop.events.data import DataValidated
from ctloop.events.drift import DriftDetected, DriftResolved
from ctloop.events.envelope import Event, derived_id
from ctloop.events.errors import DatasetNotYetKnown, ModelNotYetKnown
from ctloop.events.manifest import Manifest
from ctloop.events.model import ModelPromoted, ModelRolledBack, ModelValidated, PerformanceMeasured
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.training import ModelTrained, RetrainDecided, TrainingFailed
from ctloop.events.values import Verdict
from ctloop.platform.delivery import Refused, UnitOfWork, on
from ctloop.platform.jobs import JobFailed
from ctloop.platform.pipelines import PREDICTIONS, PipelineHandlers, manifest_by_digest, manifest_of, manifests_over
from ctloop.policy.decide import Decision, RetrainRule, decide, decide_manually
from ctloop.policy.state import PolicyState
from ctloop_training.commands import ApproveDecision, RetrainNow
from ctloop_training.domain.decisions import ahead, behind, read_until, retrain_decided
from ctloop_training.domain.outcomes import Outcome, outcome
from ctloop_training.run_jobs import (
    RecordRun,
    RunFailed,
    RunRecorded,
    RunTrained,
    TrainModel,
    WarmWorker,
    WorkerWarmed,
    model_trained,
    record_of,
    training_failed,
)
from ctloop_training.run_spec import Failed, RunSpec
from ctloop_training.store import Plan, StoredDecision, TrainingStore

Step = Callable[[PolicyState], PolicyState]
DECISIONS = Counter(
    "ctloop_decisions", "Decisions, those not to act too; the reason is the trigger.", ["model", "decision", "reason"]
)


class TrainingHandlers(PipelineHandlers):
    """One model's policy state changes in one transaction at a time: it is locked first."""

    def __init__(self, store: TrainingStore) -> None:
        self.store = store

    # What it hears

    async def on_pipeline_released(self, event: PipelineReleased, work: UnitOfWork) -> tuple[Event, ...]:
        """Keep the manifest, have a worker ready; without a champion, decide on a first one by what is there already.
        Where there is one, a new pipeline version alone is no reason to train."""
        await super().on_pipeline_released(event, work)
        await work.jobs.add(WarmWorker(manifest=event.manifest))
        state = (await self.store.state(work.connection, event.model)).on_released()
        return await self._on_data(event.manifest, state, work)

    async def on_data_validated(self, event: DataValidated, work: UnitOfWork) -> tuple[Event, ...]:
        """Count what can be learned from; while a model has no champion, decide on its first."""
        if event.dataset.endswith(PREDICTIONS) or event.data_time is None:
            return ()
        await self.store.keep_version(work.connection, event)
        said: list[Event] = []
        for manifest in await manifests_over(work.connection, event.dataset):
            said += await self._on_data(manifest, await self.store.state(work.connection, manifest.model), work)
        return tuple(said)

    async def on_performance_measured(self, event: PerformanceMeasured, work: UnitOfWork) -> tuple[Event, ...]:
        """A window has ended: decide, on the data time of its end. One measured again changes no decision."""
        manifest = await manifest_of(work.connection, event.model)
        state = await self.store.state(work.connection, event.model)
        if ahead(event.epoch, state):
            raise ModelNotYetKnown(f"epoch {event.epoch} of {event.model!r} is not known here yet")
        if not state.is_champion(event.epoch):
            return ()
        ticks, state = state.is_tick(event.window.end), state.on_performance(event)
        if not ticks:
            await self.store.save_state(work.connection, event.model, state, work.now)
            return ()
        decision = decide(state, RetrainRule.of(manifest), now=event.window.end)
        return await self._settle(decision, state, manifest, work)

    async def on_drift_detected(self, event: DriftDetected, work: UnitOfWork) -> tuple[Event, ...]:
        """Evidence for the next decision."""
        return await self._step(event.model, lambda state: state.on_drift(event), work)

    async def on_drift_resolved(self, event: DriftResolved, work: UnitOfWork) -> tuple[Event, ...]:
        """The evidence is gone."""
        return await self._step(event.model, lambda state: state.on_resolved(event), work)

    async def on_model_validated(self, event: ModelValidated, work: UnitOfWork) -> tuple[Event, ...]:
        """A verdict ends its run, but one that is promoted in a moment. A refusal asks for patience, unless it was
        against an earlier champion."""
        passed = event.verdict is Verdict.PASSED
        run = await self.store.judge_run(work.connection, event.run_id, "passed" if passed else "refused")
        if run is None:
            return ()
        decision, acts = str(run.decision_id), passed and await self._acts(event, work)

        def step(state: PolicyState) -> PolicyState:
            if passed:
                return state.on_passed(decision, acts=acts)
            return state.on_refused(run.data_time, run=decision, counts=state.is_current(event.champion_epoch))

        return await self._step(event.model, step, work)

    async def on_model_promoted(self, event: ModelPromoted, work: UnitOfWork) -> tuple[Event, ...]:
        """A new champion: its gate losses are what it is measured against."""
        run = await self.store.judge_run(work.connection, event.run_id, "promoted")
        return await self._step(event.model, lambda state: state.on_promoted(event, run and str(run.decision_id)), work)

    async def on_model_rolled_back(self, event: ModelRolledBack, work: UnitOfWork) -> tuple[Event, ...]:
        """An earlier champion again."""
        return await self._step(event.model, lambda state: state.on_rolled_back(event), work)

    # How its runs end

    async def on_run_trained(self, done: RunTrained, work: UnitOfWork) -> tuple[Event, ...]:
        """Say the model; MLflow follows."""
        fact = model_trained(done)
        await self.store.end_run(work.connection, fact, work.now)
        await work.jobs.add(RecordRun(record=record_of(done.spec, trained=done.trained)))
        return (fact,)

    async def on_run_failed(self, done: RunFailed, work: UnitOfWork) -> tuple[Event, ...]:
        """Say why; it counts like a refusal."""
        return await self._failed(done.spec, done.failed, done.attempts, work)

    async def on_run_lost(self, lost: JobFailed[TrainModel], work: UnitOfWork) -> tuple[Event, ...]:
        """It was cut off as often as it was tried."""
        failed = Failed(reason="crashed", message=f"after {lost.attempts} attempts: {lost.message}"[:2000])
        return await self._failed(lost.job.spec, failed, lost.attempts, work)

    async def on_recorded(self, done: RunRecorded | WorkerWarmed, work: UnitOfWork) -> tuple[Event, ...]:
        """MLflow shows the run, or a worker is ready: nothing of ours rests on it."""
        return ()

    async def on_not_recorded(self, failed: JobFailed[RecordRun | WarmWorker], work: UnitOfWork) -> tuple[Event, ...]:
        """The job's row keeps why; nothing of ours rests on it."""
        return ()

    # What it is asked

    async def retrain(self, command: RetrainNow, work: UnitOfWork) -> tuple[Event, ...]:
        """A person's decision; it is acted on whatever the autonomy."""
        manifest = await manifest_of(work.connection, command.model)
        known = await self.store.dataset(work.connection, manifest.record.dataset)
        if known is None or known.data_time is None:
            raise Refused(409, "CT3001", "nothing to learn from", detail=f"{manifest.record.dataset!r} has no data yet")
        state = await self.store.state(work.connection, command.model)
        decision = decide_manually(state, command.reason, known.data_time)
        return await self._settle(decision, state, manifest, work, by_person=True)

    async def approve(self, command: ApproveDecision, work: UnitOfWork) -> tuple[Event, ...]:
        """Act on a decision that was held back, once."""
        stored = await self.store.decision(work.connection, command.decision_id)
        if stored is None or stored.fact is None or stored.plan is None:
            raise Refused(404, "CT3002", "no such proposal", detail=str(command.decision_id))
        run_id, state = work.id(f"run|{stored.model}"), await self.store.state(work.connection, stored.model)
        if not await self.store.approve(work.connection, stored.id, run_id):
            raise Refused(409, "CT3003", "it was acted on already", detail=str(stored.id))
        manifest = await manifest_of(work.connection, stored.model)
        state = state.on_acted(max(stored.data_time, state.data_time or stored.data_time), str(stored.id))
        await self.store.save_state(work.connection, stored.model, state, work.now)
        await self._start(stored, manifest, run_id, work)
        return (stored.fact,)

    # What they share

    async def _on_data(self, manifest: Manifest, state: PolicyState, work: UnitOfWork) -> tuple[Event, ...]:
        """Count what the dataset has; decide while there is no champion."""
        known = await self.store.dataset(work.connection, manifest.record.dataset)
        if known is not None and known.data_time is not None:
            state = state.on_data(labelled=known.labelled - state.labelled, data_time=known.data_time)
        learns = known is not None and manifest.record.label is not None
        if not learns or state.champion is not None or state.data_time is None:
            await self.store.save_state(work.connection, manifest.model, state, work.now)
            return ()
        decision = decide(state, RetrainRule.of(manifest), now=state.data_time)
        if not decision.acts:
            await self.store.forget_last_declined(work.connection, manifest.model)
        return await self._settle(decision, state, manifest, work)

    async def _acts(self, event: ModelValidated, work: UnitOfWork) -> bool:
        """Whether the registry promotes what passed by itself: the run's file and the one in force both say so."""
        by, now = (
            await manifest_by_digest(work.connection, event.pipeline_digest),
            await manifest_of(work.connection, event.model),
        )
        return by.autonomy == "act" and now.autonomy == "act"

    async def _step(self, model: str, step: Step, work: UnitOfWork) -> tuple[Event, ...]:
        state = step(await self.store.state(work.connection, model))
        await self.store.save_state(work.connection, model, state, work.now)
        return ()

    async def _settle(
        self, decision: Decision, state: PolicyState, manifest: Manifest, work: UnitOfWork, *, by_person: bool = False
    ) -> tuple[Event, ...]:
        """Keep the decision with every node's value, and act on it as far as the user lets it."""
        stored = await self._stored(decision, state, manifest, work, by_person=by_person)
        fresh = await self.store.add_decision(work.connection, stored, work.cause.id)
        acted = fresh and stored.outcome is Outcome.ACTED
        DECISIONS.labels(manifest.model, stored.outcome.value, decision.trigger or "none").inc()
        if acted:
            state = state.on_decided(decision, str(stored.id))
        elif fresh and decision.acts:
            state = state.on_held_back()
        await self.store.save_state(work.connection, manifest.model, state, work.now)
        if not acted or stored.fact is None or stored.run_id is None:
            return ()
        await self._start(stored, manifest, stored.run_id, work)
        return (stored.fact,)

    async def _stored(
        self, decision: Decision, state: PolicyState, manifest: Manifest, work: UnitOfWork, *, by_person: bool
    ) -> StoredDecision:
        result = outcome(decision.acts, manifest.autonomy, by_person=by_person)
        id = work.id(f"decision|{manifest.model}")
        fact = await self._fact(decision, manifest, id, work) if decision.acts else None
        return StoredDecision(
            id=id,
            model=manifest.model,
            outcome=result,
            trigger=decision.trigger,
            reason=decision.reason,
            tree=decision.tree,
            data_time=decision.now,
            decided_at=work.now,
            run_id=work.id(f"run|{manifest.model}") if result is Outcome.ACTED else None,
            fact=fact,
            plan=Plan(since=decision.since, max_rows=decision.max_rows) if fact else None,
        )

    async def _fact(self, decision: Decision, manifest: Manifest, id: UUID, work: UnitOfWork) -> RetrainDecided:
        known = await self.store.dataset(work.connection, manifest.record.dataset)
        if known is None or behind(known.data_time, decision.now):
            raise DatasetNotYetKnown(f"{manifest.record.dataset!r} has not come to {decision.now.isoformat()} here yet")
        causes = (*decision.causes, work.cause.id)
        return retrain_decided(decision, manifest, id, causes, known.version)

    async def _start(self, stored: StoredDecision, manifest: Manifest, run_id: UUID, work: UnitOfWork) -> None:
        """Queue the run under the loop that its RetrainDecided starts."""
        assert stored.fact is not None and stored.plan is not None, "the caller looks"
        fact = stored.fact
        spec = RunSpec(
            run_id=run_id,
            decision_id=fact.decision_id,
            manifest=manifest,
            pipeline_digest=manifest.digest,
            dataset_version=fact.dataset_version,
            data_time=read_until(fact),
            window=fact.window,
            max_rows=stored.plan.max_rows,
            cause=f"{fact.trigger}: {fact.reason}",
            causes=fact.causes,
        )
        await self.store.add_run(work.connection, fact, run_id, work.now)
        loop = derived_id(work.cause.id, fact.type(), fact.discriminator)
        await work.jobs.add(TrainModel(spec=spec), loop_id=loop)

    async def _failed(self, spec: RunSpec, failed: Failed, attempts: int, work: UnitOfWork) -> tuple[Event, ...]:
        fact = training_failed(spec, failed, attempts)
        await self.store.end_run(work.connection, fact, work.now)
        await work.jobs.add(RecordRun(record=record_of(spec, failed=failed)))
        run = str(spec.decision_id)
        await self._step(spec.manifest.model, lambda state: state.on_refused(spec.data_time, run=run), work)
        return (fact,)


HEARS = (
    on(PipelineReleased, TrainingHandlers.on_pipeline_released, says=(RetrainDecided,)),
    on(DataValidated, TrainingHandlers.on_data_validated, says=(RetrainDecided,)),
    on(PerformanceMeasured, TrainingHandlers.on_performance_measured, says=(RetrainDecided,)),
    on(DriftDetected, TrainingHandlers.on_drift_detected),
    on(DriftResolved, TrainingHandlers.on_drift_resolved),
    on(ModelValidated, TrainingHandlers.on_model_validated),
    on(ModelPromoted, TrainingHandlers.on_model_promoted),
    on(ModelRolledBack, TrainingHandlers.on_model_rolled_back),
    on(RunTrained, TrainingHandlers.on_run_trained, says=(ModelTrained,)),
    on(RunFailed, TrainingHandlers.on_run_failed, says=(TrainingFailed,)),
    on(RunRecorded, TrainingHandlers.on_recorded),
    on(WorkerWarmed, TrainingHandlers.on_recorded),
    on(RetrainNow, TrainingHandlers.retrain, says=(RetrainDecided,)),
    on(ApproveDecision, TrainingHandlers.approve, says=(RetrainDecided,)),
)
