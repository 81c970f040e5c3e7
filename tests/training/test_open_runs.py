"""A model can always be trained again: what closes an open run, and what a decision that waits for a person leaves behind."""

from datetime import timedelta
from typing import Any

import pytest
from desk import MANIFEST, WEEK, Desk, ended, judged, measured, promoted, validated, version
from flower_lake import START

from ctloop.events.data import DataValidated
from ctloop.events.model import ModelRolledBack
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.training import RetrainDecided
from ctloop.events.values import Verdict
from ctloop_training.commands import ApproveDecision, RetrainNow
from ctloop_training.domain.outcomes import Outcome
from ctloop_training.run_spec import RunSpec
from ctloop_training.why_not import read_why_not

PROPOSING = MANIFEST.model_copy(update={"autonomy": "propose"})
OTHER = MANIFEST.model_copy(update={"model": "weeds"})


@pytest.fixture
def desk(connection: Any) -> Desk:
    return Desk(connection)


async def release(desk: Desk, manifest: Any, number: int, cause: str) -> tuple[Any, ...]:
    event = PipelineReleased(model=manifest.model, pipeline_version=number, digest=manifest.digest, manifest=manifest)
    return await desk.handlers.on_pipeline_released(event, desk.work(cause))


async def state(desk: Desk) -> Any:
    return await desk.store.state(desk.connection, "flowers")


async def asked(desk: Desk, cause: str) -> RunSpec:
    """A person asks for a run."""
    await desk.handlers.retrain(RetrainNow(model="flowers"), desk.work(cause))
    return (await desk.runs())[-1]


def rolled_back(epoch: int, run: RunSpec) -> ModelRolledBack:
    kept = promoted(1, run.run_id).model_dump(exclude={"evidence", "gates"})
    return ModelRolledBack.model_validate(kept | {"epoch": epoch, "previous_version": 2, "reason": "odd"})


async def bad_weeks(desk: Desk, epoch: int, *weeks: int) -> list[Any]:
    """Windows in which the champion is worse than at its gates; data is known beyond them."""
    data = validated(600, 5000)
    await desk.handlers.on_data_validated(data, desk.work("much data"))
    said: list[Any] = []
    for week in weeks:
        event = measured(epoch, week, 0.9, 0.0)
        said += await desk.handlers.on_performance_measured(event, desk.work(f"epoch {epoch} week {week}"))
    return said


async def test_a_run_that_a_person_is_to_promote_blocks_nothing(desk: Desk) -> None:
    """It passed under autonomy propose and nobody promotes it: the next bad window is proposed all the same."""
    await desk.champion()
    await release(desk, PROPOSING, 2, "proposing")
    run = await asked(desk, "ask")
    await desk.handlers.on_run_trained(ended(run), desk.work("trained 2"))
    verdict = judged(run.run_id, Verdict.PASSED, 1).model_copy(update={"pipeline_digest": PROPOSING.digest})
    await desk.handlers.on_model_validated(verdict, desk.work("passed"))
    await bad_weeks(desk, 1, 60, 61)
    (latest, *_) = await desk.decisions()
    assert latest.outcome is Outcome.PROPOSED
    said = (await read_why_not(desk.store, desk.connection, "flowers")).sentence
    assert str(run.run_id)[:8] in said and "waits for a person" in said and str(latest.id) in said


async def test_a_run_about_to_be_promoted_blocks_until_it_is(desk: Desk) -> None:
    """Under autonomy act the promotion follows its verdict: no second run in between."""
    first = await desk.first_run()
    await desk.handlers.on_run_trained(ended(first), desk.work("trained"))
    await desk.handlers.on_model_validated(judged(first.run_id, Verdict.PASSED, 0), desk.work("passed"))
    assert await desk.handlers.on_data_validated(validated(2, 5000), desk.work("data 2")) == ()
    await desk.handlers.on_model_promoted(promoted(1, first.run_id), desk.work("promoted"))
    assert (await state(desk)).open_run is None


async def test_a_freeze_applied_before_the_promotion_frees_the_model(desk: Desk) -> None:
    """A run that passed and is no longer promoted by itself ends with the file that allowed it to be, in either order."""
    first = await desk.first_run()
    await desk.handlers.on_run_trained(ended(first), desk.work("trained"))
    await desk.handlers.on_model_validated(judged(first.run_id, Verdict.PASSED, 0), desk.work("passed"))
    await release(desk, PROPOSING, 2, "frozen")
    assert (await state(desk)).open_run is None


@pytest.mark.parametrize("epoch", [1, 0], ids=["against-the-champion", "stale"])
async def test_a_refusal_closes_its_own_run_only(desk: Desk, epoch: int) -> None:
    """The refusal of an earlier run leaves a later one open; a stale one closes its own as well."""
    await desk.champion()
    earlier, later = await asked(desk, "one"), await asked(desk, "two")
    await desk.handlers.on_model_validated(judged(earlier.run_id, Verdict.FAILED, epoch), desk.work("refused 1"))
    assert (await state(desk)).open_run == str(later.decision_id)
    await desk.handlers.on_model_validated(judged(later.run_id, Verdict.FAILED, epoch), desk.work("refused 2"))
    assert (await state(desk)).open_run is None


async def test_a_rollback_by_hand_does_not_hide_a_run_that_is_on_its_way(desk: Desk) -> None:
    """It goes on, is judged against the champion that came back, and is not doubled meanwhile; it asks for patience."""
    first = await desk.champion()
    second = await asked(desk, "two")
    await desk.handlers.on_model_promoted(promoted(2, second.run_id), desk.work("promoted 2"))
    third = await asked(desk, "three")
    await desk.handlers.on_model_rolled_back(rolled_back(3, first), desk.work("back"))
    held = await state(desk)
    assert held.open_run == str(third.decision_id) and held.champion.version == 1 and held.refused == 1
    assert await bad_weeks(desk, 3, 60, 61, 62) == []
    await desk.handlers.on_model_validated(judged(third.run_id, Verdict.FAILED, 3), desk.work("refused"))
    assert (await state(desk)).open_run is None


async def test_approving_counts_like_any_run(desk: Desk) -> None:
    """Cooldown, budget and the open run know of it."""
    await desk.release(PROPOSING)
    await desk.handlers.on_data_validated(validated(1, 400), desk.work("data"))
    (kept,) = await desk.decisions()
    await desk.handlers.approve(ApproveDecision(decision_id=kept.id), desk.work("approved"))
    held = await state(desk)
    assert held.open_run == str(kept.id) and held.decided_at == (kept.data_time,)
    assert await desk.handlers.on_data_validated(validated(2, 5000), desk.work("data 2")) == ()
    (latest, *_) = await desk.decisions()
    assert latest.outcome is Outcome.DECLINED and "on its way" in latest.reason


async def test_a_proposal_is_made_once_not_with_every_batch(desk: Desk) -> None:
    """And again when half as much more is labelled."""
    await desk.release(PROPOSING)
    for n, labelled in enumerate((400, 50, 50, 500), 1):
        await desk.handlers.on_data_validated(validated(n, labelled), desk.work(f"data {n}"))
    outcomes = [one.outcome for one in await desk.decisions()]
    assert outcomes.count(Outcome.PROPOSED) == 2


async def test_batches_without_a_model_leave_one_decision_not_to(desk: Desk) -> None:
    """Each replaces the one before: a table of decisions grows with windows, not with batches."""
    await desk.release()
    for n in range(1, 21):
        await desk.handlers.on_data_validated(validated(n, 1), desk.work(f"data {n}"))
    (kept,) = await desk.decisions()
    assert "20 labelled rows" in kept.reason


async def test_a_window_measured_again_changes_no_decision(desk: Desk) -> None:
    """Late labels measure closed windows again, batch by batch; decisions are taken at a window's end only."""
    await desk.champion()
    await desk.handlers.on_data_validated(validated(600, 5000), desk.work("much data"))
    await desk.handlers.on_performance_measured(measured(1, 60, 0.5, 0.3), desk.work("calm"))
    before = await desk.decisions()
    again = measured(1, 60, 0.95, -0.1)
    assert await desk.handlers.on_performance_measured(again, desk.work("again")) == ()
    assert await desk.decisions() == before
    (window,) = (await state(desk)).windows
    assert window.metrics[0].value == 0.95


async def test_a_second_model_learns_from_what_is_there(desk: Desk) -> None:
    """Applied over a dataset that has labels already: it is decided on at once, not after as many labels again."""
    await desk.first_run()
    (fact,) = await release(desk, OTHER, 1, "other")
    assert isinstance(fact, RetrainDecided) and fact.model == "weeds" and fact.dataset_version == version(1)
    held = await desk.store.state(desk.connection, "weeds")
    assert held.labelled == 400
    await desk.handlers.on_data_validated(validated(2, 10), desk.work("data 2"))
    assert (await desk.store.state(desk.connection, "weeds")).labelled == 410


async def test_a_mended_file_is_tried_at_once_while_there_is_no_model(desk: Desk) -> None:
    """The last run failed by the code of the file before."""
    first = await desk.first_run()
    await desk.handlers.on_model_validated(judged(first.run_id, Verdict.FAILED, 0), desk.work("refused"))
    mended = MANIFEST.model_copy(update={"trials": 9})
    (fact,) = await release(desk, mended, 2, "mended")
    assert isinstance(fact, RetrainDecided) and (await desk.runs())[-1].pipeline_digest == mended.digest


async def test_a_budget_above_the_runs_kept_is_kept_to(desk: Desk) -> None:
    """Every run of the last day of data time is remembered, those before are not."""
    held = await state(desk)
    for hour in range(100):
        held = held.on_acted(START + timedelta(minutes=hour), str(hour))
    assert len(held.decided_at) == 100
    assert len(held.on_acted(START + timedelta(days=3), "late").decided_at) == 1


async def test_pages_of_decisions_lose_none_of_one_moment(desk: Desk) -> None:
    """Decisions of one chunk have the same time of the wall clock; the cursor still tells them apart."""
    await desk.champion()
    await bad_weeks(desk, 1, 60, 61, 62)
    every = await desk.decisions()
    found: list[Any] = []
    cursor: int | None = None
    while page := await desk.store.decisions(desk.connection, "flowers", outcome=None, before=cursor, limit=1):
        found += page
        cursor = page[-1].seq
    assert tuple(found) == every and len(every) == 4


async def test_labels_of_a_dataset_count_once_for_each_of_its_models(desk: Desk) -> None:
    """Also when a batch brings nothing."""
    await desk.release()
    await release(desk, OTHER, 1, "other")
    await desk.handlers.on_data_validated(validated(1, 60), desk.work("data 1"))
    empty: DataValidated = validated(1, 0)
    await desk.handlers.on_data_validated(empty, desk.work("data 1 again"))
    for model in ("flowers", "weeds"):
        assert (await desk.store.state(desk.connection, model)).labelled == 60


async def test_why_not_tells_what_holds_it_back(desk: Desk) -> None:
    """Nothing yet; a run on its way; the condition that did not hold, with its values."""
    assert "too few labels" in (await read_why_not(desk.store, desk.connection, "flowers")).sentence
    await desk.first_run()
    said = (await read_why_not(desk.store, desk.connection, "flowers")).sentence
    assert "decided on" in said and "has not ended" in said
    (run,) = await desk.runs()
    await desk.handlers.on_model_promoted(promoted(1, run.run_id), desk.work("promoted"))
    await desk.handlers.on_data_validated(validated(600, 5000), desk.work("data"))
    limited = MANIFEST.retrain.model_copy(update={"runs_per_day": 0})
    await release(desk, MANIFEST.model_copy(update={"retrain": limited}), 2, "limited")
    for week in (60, 61):
        await desk.handlers.on_performance_measured(measured(1, week, 0.9, 0.0), desk.work(f"w{week}"))
    said = (await read_why_not(desk.store, desk.connection, "flowers")).sentence
    assert "runs_today" in said and "budget" in said, said
    assert (await desk.decisions())[0].data_time == START + 62 * WEEK


async def test_what_an_api_asks_is_answered_by_an_index(desk: Desk) -> None:
    """Tables of decisions and jobs grow; a page does not read them."""
    await desk.connection.execute("SET LOCAL enable_seqscan = off")
    for question, index in (
        ("SELECT * FROM decision WHERE model = 'm' AND seq < 9 ORDER BY seq DESC LIMIT 5", "decision_of_model"),
        ("SELECT 1 FROM job WHERE kind = 'train-model' AND arguments::jsonb #>> '{spec,run_id}' = 'x'", "job_of_run"),
    ):
        plan = "\n".join(row[0] for row in await desk.connection.fetch("EXPLAIN " + question))
        assert index in plan and "Sort" not in plan, plan
