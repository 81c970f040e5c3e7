"""The watch when champions go back, when two models share a dataset, and what it lets go of."""

from datetime import timedelta
from typing import Any

import pytest

from ctloop.events.data import PredictionsServed
from ctloop.events.model import ModelRolledBack, PerformanceMeasured
from ctloop.events.pipeline import PipelineReleased
from ctloop_monitoring.watching import KEPT_MEASURED
from ctloop_monitoring.work import LookAgain, ReferenceBuilt

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
DAY = timedelta(days=1)
SLOW = "slow-delays"


def measured(events: Any) -> list[PerformanceMeasured]:
    return [one for one in events if isinstance(one, PerformanceMeasured)]


async def test_a_rollback_is_judged_from_now_on(monitor: Any, world: Any) -> None:
    """Not from when the version was first promoted: its old windows were measured then and would be decided on again."""
    await monitor.promote(1)
    await monitor.promote(2, world.START + 10 * world.HOUR)
    await monitor.labels([], world.START + 30 * world.HOUR)
    kept = world.promotion(1, world.START, 2000 * 24).model_dump(exclude={"evidence", "gates"})
    back = ModelRolledBack.model_validate(kept | {"epoch": 3, "previous_version": 2, "reason": "odd"})
    said = [*await monitor.tell(back), *await monitor.build_reference(1)]
    reference = await monitor.edge.pool.fetchval("SELECT reference FROM watch")
    assert reference is None, "of an epoch that is no longer watched"
    said += await monitor.build_reference(3)
    said += await monitor.serve([world.Prediction("r", world.START + 33 * world.HOUR, epoch=3)])
    said += await monitor.labels([], world.START + 33 * world.HOUR)
    ends = [(one.epoch, (one.window.end - world.START) // world.HOUR) for one in measured(said)]
    assert ends == [(3, 31), (3, 32), (3, 33)]


async def test_a_fast_model_leaves_a_slow_one_its_labels(monitor: Any, world: Any) -> None:
    """Two models on one dataset: what windows of ten minutes ask for no more, a window of a week still needs."""
    slow = world.MANIFEST.model_copy(update={"model": SLOW})
    await monitor.tell(PipelineReleased(model=SLOW, pipeline_version=1, digest=slow.digest, manifest=slow))
    promoted = world.promotion(1, world.START, 300).model_copy(update={"model": SLOW, "pipeline_digest": slow.digest})
    await monitor.promote(1, rows=2000 * 144)
    await monitor.tell(promoted)
    reference = await monitor.edge.pool.fetchval("SELECT reference FROM watch WHERE model = $1", world.MODEL)
    await monitor.tell(ReferenceBuilt(model=SLOW, epoch=1, reference=reference))
    rows = [world.Prediction(f"r{one}", world.START + world.HOUR) for one in range(30)]
    await monitor.tell(PredictionsServed(model=SLOW, body=world.served(rows)))
    labels = [world.Label(one.record_id, world.START + 2 * world.HOUR, True) for one in rows]
    await monitor.labels(labels, world.START + 2 * world.HOUR)
    await monitor.serve([world.Prediction("late", world.START + 3 * DAY)])
    assert measured(await monitor.labels([], world.START + 3 * DAY))
    await monitor.labels([], world.START + 7 * DAY)
    await monitor.edge.pool.execute("UPDATE served SET heard_at = heard_at - interval '1 hour'")
    (week,) = measured(await monitor.tell(LookAgain(model=SLOW, end=world.START + 7 * DAY)))
    assert week.model == SLOW and week.labels == 30


async def test_what_was_measured_long_ago_is_let_go(monitor: Any, world: Any) -> None:
    """Windows and scores of a fast model do not grow for ever; labels that no model asks for go too."""
    await monitor.promote(1)
    old = world.START - (KEPT_MEASURED + 1) * world.HOUR
    pool = monitor.edge.pool
    await pool.execute("INSERT INTO measured VALUES ($1, 1, $2, $2, '{}')", world.MODEL, old)
    await pool.execute("INSERT INTO drift_score VALUES ($1, 1, $2, '{}')", world.MODEL, old)
    await pool.execute("INSERT INTO label VALUES ($1, 'r', $2, 1, 'true', NULL)", world.DATASET, old)
    await monitor.serve([world.Prediction("r", world.START + 2 * world.HOUR)])
    assert measured(await monitor.labels([], world.START + world.HOUR))
    for table in ("measured", "drift_score"):
        assert await pool.fetchval(f"SELECT count(*) FROM {table}") == 1
    assert await pool.fetchval("SELECT count(*) FROM label") == 0


async def test_waiting_for_predictions_keeps_few_timers(monitor: Any, world: Any) -> None:
    """Data are ahead and predictions keep coming: each asks to be looked at again, the timers do not add up."""
    await monitor.promote(1)
    await monitor.labels([], world.START + 5 * world.HOUR)
    pool = monitor.edge.pool
    for number in range(6):
        await monitor.serve([world.Prediction(f"r{number}", world.START)])
        rows = await pool.fetch("SELECT id, arguments FROM job WHERE kind = 'look-again' AND state = 'QUEUED'")
        assert 1 <= len(rows) <= 2
        for row in rows:
            await pool.execute("UPDATE job SET state = 'DONE' WHERE id = $1", row["id"])
            assert await monitor.tell(LookAgain.model_validate_json(row["arguments"])) == ()
