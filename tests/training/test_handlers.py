"""What training does with each fact it hears: one behaviour each, on a real PostgreSQL."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

import pytest
from flower_lake import NAMESPACE, START

from ctloop.events.data import DataValidated
from ctloop.events.envelope import Envelope
from ctloop.events.errors import DatasetNotYetKnown, ModelNotYetKnown
from ctloop.events.manifest import FieldSpec, Manifest, RecordSpec
from ctloop.events.model import ModelPromoted, ModelValidated, PerformanceMeasured
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.training import ModelTrained, RetrainDecided, TrainingFailed
from ctloop.events.values import (
    DatasetVersion,
    Measured,
    ObjectRef,
    Parity,
    Signature,
    TrafficShare,
    Verdict,
    Window,
)
from ctloop.platform.delivery import Refused
from ctloop.platform.delivery.work import Work
from ctloop.platform.jobs import JobFailed, JobQueue
from ctloop_training.commands import ApproveDecision, RetrainNow
from ctloop_training.domain.outcomes import Outcome
from ctloop_training.handlers import TrainingHandlers
from ctloop_training.run_jobs import RunFailed, RunTrained, TrainModel
from ctloop_training.run_spec import Failed, RunSpec, Trained
from ctloop_training.store import StoredDecision, TrainingStore

REF = ObjectRef(uri="s3://ctloop/x", sha256="0" * 64, bytes=1)
RECORD = RecordSpec(
    dataset="flower",
    id="flower",
    time="seen",
    fields=(FieldSpec(name="flower", kind="string"), FieldSpec(name="seen", kind="time")),
    label=FieldSpec(name="tall", kind="boolean"),
)
MANIFEST = Manifest(
    model="flowers", task="classification", record=RECORD, metric="log_loss", module="m", function="f", bundle=REF,
    python="3.11",
)  # fmt: skip
WEEK = timedelta(days=7)
SIGNATURE = Signature(inputs=(), outputs=(), classes=("false", "true"))
WorkFor = Callable[[str], Work]


def version(n: int) -> DatasetVersion:
    return DatasetVersion(n=n, digest=f"d{n}", records_version=n, labels_version=n)


def validated(n: int, labelled: int, dataset: str = "flower") -> DataValidated:
    """A batch; data time rises by a day with each."""
    return DataValidated(
        dataset=dataset, verdict=Verdict.PASSED, batch=REF, number=n, version=version(n), rows=labelled,
        labelled=labelled, data_time=START + timedelta(days=n), report_uri="s3://ctloop/r",
    )  # fmt: skip


def promoted(epoch: int, run_id: UUID) -> ModelPromoted:
    window = Window(start=START - 8 * WEEK, end=START + 4 * WEEK, rows=60_000)
    return ModelPromoted(
        model="flowers", version=epoch, run_id=run_id, digest="0" * 64, onnx=REF, golden=REF, signature=SIGNATURE,
        pipeline_digest=MANIFEST.digest, epoch=epoch, dataset="flower", dataset_version=version(1),
        training_window=window, traffic=(TrafficShare(version=epoch, percent=100),), data_time=START,
        metrics=(Measured(name="log_loss", value=0.5, low=0.48, high=0.52), Measured(name="skill", value=0.3)),
    )  # fmt: skip


def measured(epoch: int, week: int, loss: float, skill: float) -> PerformanceMeasured:
    window = Window(start=START + week * WEEK, end=START + (week + 1) * WEEK, rows=2000)
    return PerformanceMeasured(
        model="flowers", version=epoch, epoch=epoch, window=window, predictions=2000, labels=2000, coverage=1.0,
        data_time=window.end,
        metrics=(
            Measured(name="log_loss", value=loss, low=loss - 0.01, high=loss + 0.01),
            Measured(name="skill", value=skill, low=skill - 0.01, high=skill + 0.01),
        ),
    )  # fmt: skip


def judged(run_id: UUID, verdict: Verdict, epoch: int) -> ModelValidated:
    window = Window(start=START, end=START + WEEK)
    return ModelValidated(
        model="flowers", run_id=run_id, pipeline_digest=MANIFEST.digest, onnx=REF, golden=REF, signature=SIGNATURE,
        dataset="flower", dataset_version=version(1), training_window=window, gate_window=window, verdict=verdict,
        gates=(), metrics=(), champion_epoch=epoch, evidence=REF,
    )  # fmt: skip


def ended(spec: RunSpec) -> RunTrained:
    window = Window(start=START, end=START + WEEK)
    result = Trained(
        onnx=REF, golden=REF, capsule=REF, signature=SIGNATURE, metrics=(), params=(("C", 1.0),), trials=1,
        parity=Parity(rows=1, largest_difference=0, flipped=0), training_window=window, gate_window=window,
        user_seconds=0.1,
    )  # fmt: skip
    return RunTrained(spec=spec, trained=result, mlflow_run_id="abc", attempts=1)


class Desk:
    """The handlers, and units of work whose causes have names."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.store = TrainingStore()
        self.handlers = TrainingHandlers(self.store)

    def work(self, cause: str) -> Work:
        envelope = Envelope(id=uuid5(NAMESPACE, cause), source="/test", type="t", subject="flowers", time=START)
        return Work(self.connection, envelope, START, JobQueue(self.connection, envelope, "ctloop_training_jobs"))

    async def release(self, manifest: Manifest = MANIFEST) -> None:
        event = PipelineReleased(model=manifest.model, pipeline_version=1, digest=manifest.digest, manifest=manifest)
        await self.handlers.on_pipeline_released(event, self.work("release"))

    async def runs(self) -> list[RunSpec]:
        rows = await self.connection.fetch("SELECT arguments FROM job WHERE kind = 'train-model' ORDER BY seq")
        return [TrainModel.model_validate_json(row["arguments"]).spec for row in rows]

    async def jobs(self, kind: str) -> int:
        return await self.connection.fetchval("SELECT count(*) FROM job WHERE kind = $1", kind)

    async def decisions(self) -> tuple[StoredDecision, ...]:
        return await self.store.decisions(self.connection, "flowers", outcome=None, before=None, limit=50)

    async def first_run(self) -> RunSpec:
        """A model that has been decided on."""
        await self.release()
        await self.handlers.on_data_validated(validated(1, 400), self.work("data 1"))
        (spec,) = await self.runs()
        return spec

    async def champion(self, epoch: int = 1) -> RunSpec:
        """A model that has a champion."""
        spec = await self.first_run()
        await self.handlers.on_run_trained(ended(spec), self.work("trained"))
        await self.handlers.on_model_promoted(promoted(epoch, spec.run_id), self.work("promoted"))
        return spec


@pytest.fixture
def desk(connection: Any) -> Desk:
    return Desk(connection)


async def test_enough_labels_start_the_first_run(desk: Desk) -> None:
    """The decision is kept and said, and its run queued under the loop it starts."""
    await desk.release()
    said = await desk.handlers.on_data_validated(validated(1, 400), desk.work("data"))
    (fact,) = said
    assert isinstance(fact, RetrainDecided) and fact.trigger == "first-model"
    assert fact.causes == (uuid5(NAMESPACE, "data"),) and fact.data_time == START + timedelta(days=1)
    (spec,) = await desk.runs()
    assert spec.decision_id == fact.decision_id and spec.dataset_version == version(1)
    (kept,) = await desk.decisions()
    assert kept.outcome is Outcome.ACTED and kept.run_id == spec.run_id and kept.tree == fact.tree


async def test_too_few_labels_are_a_decision_not_to(desk: Desk) -> None:
    """It is kept with its values, for why --not."""
    await desk.release()
    assert await desk.handlers.on_data_validated(validated(1, 40), desk.work("data")) == ()
    (kept,) = await desk.decisions()
    assert kept.outcome is Outcome.DECLINED and "40 labelled rows" in kept.reason
    assert await desk.runs() == []


async def test_the_same_fact_again_is_one_decision(desk: Desk) -> None:
    """Unique per model and cause."""
    await desk.first_run()
    await desk.handlers.on_data_validated(validated(1, 400), desk.work("data 1"))
    assert len(await desk.decisions()) == 1 and len(await desk.runs()) == 1


async def test_predictions_that_land_are_no_data_to_learn_from(desk: Desk) -> None:
    """The dataset of a model's predictions is monitoring's business."""
    await desk.release()
    event = validated(1, 400, dataset="flowers.predictions")
    assert await desk.handlers.on_data_validated(event, desk.work("data")) == ()


async def test_data_of_an_unknown_dataset_waits(desk: Desk) -> None:
    """It is parked until the model file is known here."""
    with pytest.raises(DatasetNotYetKnown):
        await desk.handlers.on_data_validated(validated(1, 400), desk.work("data"))


@pytest.mark.parametrize(
    ("autonomy", "outcome"), [("watch", Outcome.WATCHED), ("propose", Outcome.PROPOSED), ("act", Outcome.ACTED)]
)
async def test_autonomy(desk: Desk, autonomy: Any, outcome: Outcome) -> None:
    """What is held back is kept, and one word of a person starts it, once."""
    await desk.release(MANIFEST.model_copy(update={"autonomy": autonomy}))
    said = await desk.handlers.on_data_validated(validated(1, 400), desk.work("data"))
    (kept,) = await desk.decisions()
    assert kept.outcome is outcome and bool(said) == (outcome is Outcome.ACTED)
    if outcome is Outcome.ACTED:
        return
    command = ApproveDecision(decision_id=kept.id)
    (fact,) = await desk.handlers.approve(command, desk.work("approved"))
    assert isinstance(fact, RetrainDecided) and len(await desk.runs()) == 1
    with pytest.raises(Refused):
        await desk.handlers.approve(command, desk.work("again"))


async def test_a_person_may_ask_twice(desk: Desk) -> None:
    """Each asking is a decision of its own."""
    await desk.champion()
    for name in ("one", "two"):
        command = RetrainNow(model="flowers", reason="new season")
        (fact,) = await desk.handlers.retrain(command, desk.work(name))
        assert isinstance(fact, RetrainDecided) and fact.trigger == "manual" and "new season" in fact.reason
    assert len(await desk.runs()) == 3


async def test_nothing_to_learn_from_is_a_clear_no(desk: Desk) -> None:
    """Before any data."""
    await desk.release()
    with pytest.raises(Refused, match="nothing to learn from"):
        await desk.handlers.retrain(RetrainNow(model="flowers"), desk.work("ask"))


async def test_worse_performance_is_decided_on_at_the_window_s_end(desk: Desk) -> None:
    """With data of that time known here; the calm windows before are decisions too."""
    await desk.champion()
    await desk.handlers.on_data_validated(validated(90, 5000), desk.work("data 90"))
    assert await desk.handlers.on_performance_measured(measured(1, 5, 0.5, 0.3), desk.work("w5")) == ()
    said: tuple[Any, ...] = ()
    for week in (6, 7):
        said += await desk.handlers.on_performance_measured(measured(1, week, 0.9, 0.0), desk.work(f"w{week}"))
    (fact,) = said
    assert fact.trigger == "performance" and fact.data_time == START + 7 * WEEK
    assert fact.dataset_version == version(90)
    outcomes = {one.data_time: one.outcome for one in await desk.decisions()}
    assert outcomes[START + 6 * WEEK] is Outcome.DECLINED and outcomes[START + 7 * WEEK] is Outcome.ACTED


async def test_a_window_ahead_of_the_data_or_the_champion_waits(desk: Desk) -> None:
    """A run reads as of the decision's data time: what is behind it must be here."""
    await desk.champion()
    with pytest.raises(ModelNotYetKnown):
        await desk.handlers.on_performance_measured(measured(2, 5, 0.9, 0.0), desk.work("epoch 2"))
    with pytest.raises(DatasetNotYetKnown):
        await desk.handlers.on_performance_measured(measured(1, 5, 0.9, 0.0), desk.work("w5"))


async def test_a_run_that_ends_says_its_model(desk: Desk) -> None:
    """And MLflow is told later."""
    spec = await desk.first_run()
    (fact,) = await desk.handlers.on_run_trained(ended(spec), desk.work("end"))
    assert isinstance(fact, ModelTrained) and fact.run_id == spec.run_id and fact.data_time == spec.data_time
    (run,) = await desk.store.runs(desk.connection, model="flowers")
    assert run.state == "trained" and run.trained == fact
    assert await desk.jobs("record-run") == 1


async def test_a_run_that_fails_says_why_and_asks_for_patience(desk: Desk) -> None:
    """The next first model needs half as many labels more."""
    spec = await desk.first_run()
    failed = Failed(reason="raised", message="ValueError: no", log_tail=("line",))
    done = RunFailed(spec=spec, failed=failed, mlflow_run_id=None, attempts=1)
    (fact,) = await desk.handlers.on_run_failed(done, desk.work("end"))
    assert isinstance(fact, TrainingFailed) and fact.reason == "raised" and fact.log_tail == ("line",)
    assert await desk.handlers.on_data_validated(validated(2, 50), desk.work("data 2")) == ()
    (fact,) = await desk.handlers.on_data_validated(validated(3, 400), desk.work("data 3"))
    assert isinstance(fact, RetrainDecided)


async def test_a_run_cut_off_too_often_has_crashed(desk: Desk) -> None:
    """The job's attempts are over."""
    spec = await desk.first_run()
    lost = JobFailed(TrainModel(spec=spec), "exhausted", "the head is gone", 6)
    (fact,) = await desk.handlers.on_run_lost(lost, desk.work("end"))
    assert isinstance(fact, TrainingFailed) and fact.reason == "crashed" and fact.attempts == 6


@pytest.mark.parametrize(("epoch", "refused"), [(1, 1), (0, 0)], ids=["against-the-champion", "stale"])
async def test_a_refusal_counts_only_against_the_champion_of_now(desk: Desk, epoch: int, refused: int) -> None:
    """A stale verdict is challenged again."""
    spec = await desk.champion()
    await desk.handlers.on_model_validated(judged(spec.run_id, Verdict.FAILED, epoch), desk.work("judged"))
    assert (await desk.store.state(desk.connection, "flowers")).refused == refused
    (run,) = await desk.store.runs(desk.connection, model="flowers")
    assert run.state == "promoted"


async def test_a_pipeline_that_changes_trains_nothing_and_warms_a_worker(desk: Desk) -> None:
    """Apply alone is no reason to train."""
    await desk.release()
    assert await desk.jobs("warm-worker") == 1 and await desk.runs() == [] and await desk.decisions() == ()
