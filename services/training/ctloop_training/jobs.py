"""What training does outside transactions: run on Ray, keep MLflow's view, have workers warm."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

from prometheus_client import Counter, Histogram

from ctloop.events.errors import CtloopError
from ctloop.events.training import TrainingFailed, TrainingStarted
from ctloop.platform.jobs import Lease, runs
from ctloop.platform.settings import S3Settings
from ctloop.platform.spans import current_traceparent
from ctloop_training.handlers import TrainingHandlers
from ctloop_training.mlflow_runs import MlflowRuns
from ctloop_training.run_jobs import (
    RecordRun,
    RunFailed,
    RunRecorded,
    RunTrained,
    TrainModel,
    WarmWorker,
    WorkerWarmed,
)
from ctloop_training.run_spec import Failed, OnProgress, Progress, RunOrder, RunSpec, Trained, Trial, WarmOrder

log = logging.getLogger(__name__)

TRAINING_SECONDS = Histogram(
    "ctloop_training_duration_seconds", "One attempt of a run, from its order to its end, in seconds.",
    ["model", "outcome"], buckets=(0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200, 21600),
)  # fmt: skip
GPU_SECONDS = Counter("ctloop_training_gpu_seconds", "Seconds of GPU that runs held, by model.", ["model"])
MLFLOW_PATIENCE_SECONDS = 0.5
"""How long a run that has ended waits for MLflow's id of it."""


class Runner(Protocol):
    """What runs an order: Ray, or a task in this process for tests."""

    async def run(self, order: RunOrder, on_progress: OnProgress) -> Trained | Failed: ...
    async def warm(self, order: WarmOrder) -> None: ...


class TrainingJobs:
    """Every job may be cut off and done again: outputs lie under the attempt's prefix, the end commits one of them."""

    def __init__(self, runner: Runner, mlflow: MlflowRuns, store: S3Settings) -> None:
        self._runner = runner
        self._mlflow = mlflow
        self._store = store

    async def train_model(self, job: TrainModel, lease: Lease) -> RunTrained | RunFailed:
        """A run on Ray; trials that ended under an earlier fence are kept. Cancelled when the lease is lost.

        Raises:
            TransientError: what it ran on was lost.
        """
        spec = job.spec
        await lease.say(started(spec))
        begun = asyncio.create_task(self._mlflow_id(spec))
        try:
            ended = await self._measured(spec, lease)
            mlflow_run_id = await self._briefly(begun)
        finally:
            begun.cancel()
        if isinstance(ended, Failed):
            return RunFailed(spec=spec, failed=ended, mlflow_run_id=mlflow_run_id, attempts=lease.attempt)
        return RunTrained(spec=spec, trained=ended, mlflow_run_id=mlflow_run_id, attempts=lease.attempt)

    async def record_run(self, job: RecordRun, lease: Lease) -> RunRecorded:
        """Bring MLflow up to date with an ended run.

        Raises:
            TransientError: MLflow is not there.
        """
        found = await self._mlflow.begin(job.record.model, job.record.run_id)
        lease.check()
        await self._mlflow.finish(found, job.record)
        return RunRecorded(run_id=job.record.run_id, mlflow_run_id=found)

    async def warm_worker(self, job: WarmWorker, lease: Lease) -> WorkerWarmed:
        """Have driver, Ray worker and the user's module ready."""
        await self._runner.warm(WarmOrder(manifest=job.manifest, store=self._store))
        return WorkerWarmed(model=job.manifest.model)

    async def _measured(self, spec: RunSpec, lease: Lease) -> Trained | Failed:
        outcome, begun = "lost", time.perf_counter()
        try:
            ended = await self._run(spec, lease)
            outcome = "trained" if isinstance(ended, Trained) else "failed"
            return ended
        finally:
            seconds, model = time.perf_counter() - begun, spec.manifest.model
            exemplar = {"trace_id": lease.cause.loop_id.hex} if lease.cause.loop_id else None
            TRAINING_SECONDS.labels(model, outcome).observe(seconds, exemplar)
            GPU_SECONDS.labels(model).inc(seconds * spec.manifest.resources.gpus)

    async def _run(self, spec: RunSpec, lease: Lease) -> Trained | Failed:
        kept = trials_of(lease.notes)
        order = RunOrder(
            spec=spec, store=self._store, prefix=lease.prefix, trials=kept,
            traceparent=current_traceparent() or lease.cause.traceparent, loop_id=lease.cause.loop_id,
        )  # fmt: skip

        async def on_progress(progress: Progress) -> None:
            nonlocal kept
            if progress.finished is not None:
                kept = (*kept, progress.finished)
            await lease.note(noted(progress, kept))

        return await self._runner.run(order, on_progress)

    async def _mlflow_id(self, spec: RunSpec) -> str | None:
        try:
            return await self._mlflow.begin(spec.manifest.model, spec.run_id)
        except CtloopError as error:  # also where it refuses for good: RecordRun tells that
            log.info("%s", error, extra={"action": "mlflow-later", "model": spec.manifest.model})
            return None

    async def _briefly(self, begun: "asyncio.Task[str | None]") -> str | None:
        done, _ = await asyncio.wait({begun}, timeout=MLFLOW_PATIENCE_SECONDS)
        return begun.result() if done else None


def started(spec: RunSpec) -> TrainingStarted:
    """The fact that a worker took the run up."""
    manifest = spec.manifest
    return TrainingStarted(
        model=manifest.model,
        run_id=spec.run_id,
        decision_id=spec.decision_id,
        dataset_version=spec.dataset_version,
        resources=manifest.resources,
        trials=manifest.trials if manifest.parameters else 1,
    )


def noted(progress: Progress, kept: tuple[Trial, ...]) -> dict[str, Any]:
    """What the lease keeps: where the run is, for people, and the finished trials, for the next attempt."""
    best = min((trial.value for trial in kept if trial.value is not None), default=None)
    return {
        "stage": progress.stage,
        "trial": progress.trial,
        "trials": progress.trials,
        "best": best,
        "finished": [trial.model_dump(mode="json") for trial in kept],
    }


def trials_of(notes: Mapping[str, Any]) -> tuple[Trial, ...]:
    """The trials an earlier attempt finished."""
    return tuple(Trial.model_validate(one) for one in notes.get("finished", ()))


RUNS = (
    runs(TrainModel, TrainingJobs.train_model, failed=TrainingHandlers.on_run_lost, says=(TrainingFailed,)),
    runs(RecordRun, TrainingJobs.record_run, failed=TrainingHandlers.on_not_recorded),
    runs(WarmWorker, TrainingJobs.warm_worker, failed=TrainingHandlers.on_not_recorded),
)
