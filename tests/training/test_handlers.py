"""What training does with each fact it hears: one behaviour each, on a real PostgreSQL."""

from datetime import timedelta
from typing import Any
from uuid import uuid5

import pytest
from desk import MANIFEST, WEEK, Desk, ended, judged, measured, validated, version
from flower_lake import NAMESPACE, START

from ctloop.events.errors import DatasetNotYetKnown, ModelNotYetKnown
from ctloop.events.training import ModelTrained, RetrainDecided, TrainingFailed
from ctloop.events.values import Verdict
from ctloop.platform.delivery import Refused
from ctloop.platform.jobs import JobFailed
from ctloop_training.commands import ApproveDecision, RetrainNow
from ctloop_training.domain.outcomes import Outcome
from ctloop_training.run_jobs import RunFailed, TrainModel
from ctloop_training.run_spec import Failed


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
