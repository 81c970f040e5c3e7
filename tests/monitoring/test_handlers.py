"""What monitoring does with what it hears: the happy path first."""

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from ctloop.events.data import PredictionsServed
from ctloop.events.drift import DriftDetected, DriftResolved
from ctloop.events.errors import ModelNotYetKnown, RejectedEvent
from ctloop.events.model import PerformanceMeasured

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]
MINUTE = timedelta(minutes=1)


def hour_of(world: Any, hour: int, rows: int = 60, **changes: Any) -> list[Any]:
    """Predictions spread over one hour, every second one right about a late flight."""
    start = world.START + hour * world.HOUR
    return [
        world.Prediction(
            f"{hour}-{one}", start + one * world.HOUR / rows, 0.9 if one % 2 else 0.1, temp=10 + one % 7, **changes
        )
        for one in range(rows)
    ]


def labels_of(world: Any, rows: list[Any], delay: timedelta = MINUTE, right: bool = True) -> list[Any]:
    """Their labels a little later."""
    return [world.Label(one.record_id, one.at + delay, (one.chance > 0.5) == right) for one in rows]


def measured(events: Any) -> list[PerformanceMeasured]:
    return [one for one in events if isinstance(one, PerformanceMeasured)]


async def test_a_window_is_measured_when_data_time_passes_its_end(monitor: Any, world: Any) -> None:
    """Predictions, then their labels, then data beyond the hour: one PerformanceMeasured for the hour."""
    await monitor.promote(1)
    rows = hour_of(world, 0)
    await monitor.serve(rows)
    await monitor.labels(labels_of(world, rows[:50]), world.START + 50 * MINUTE)
    assert measured(monitor.said) == []
    await monitor.serve(hour_of(world, 1))
    said = measured(await monitor.labels(labels_of(world, rows[50:59]), world.START + world.HOUR + 10 * MINUTE))
    assert [(one.window.start, one.window.end) for one in said] == [(world.START, world.START + world.HOUR)]
    [one] = said
    assert (one.version, one.epoch, one.predictions, one.labels) == (1, 1, 60, 59)
    assert {metric.name: round(metric.value, 4) for metric in one.metrics}["log_loss"] == 0.1054
    assert one.data_time == world.START + world.HOUR


async def test_it_waits_for_predictions_unless_nobody_predicts(monitor: Any, world: Any) -> None:
    """Data ahead of the predictions closes nothing; after 2 s without a prediction the timer does."""
    await monitor.promote(1)
    rows = hour_of(world, 0)
    await monitor.serve(rows[:30])
    end = world.START + world.HOUR
    assert measured(await monitor.labels(labels_of(world, rows[:30]), end + MINUTE)) == []
    [one] = measured(await monitor.idle(end))
    assert (one.predictions, one.labels) == (30, 30)


async def test_a_window_without_labels_is_said_too(monitor: Any, world: Any) -> None:
    """It is training's clock: metrics are empty, coverage is 0."""
    await monitor.promote(1)
    await monitor.serve(hour_of(world, 3))
    said = measured(await monitor.labels([], world.START + 3 * world.HOUR))
    assert [one.window.end for one in said] == [world.START + hour * world.HOUR for hour in (1, 2, 3)]
    assert all(one.metrics == () and one.labels == 0 for one in said)


async def test_a_new_version_is_judged_by_its_own_predictions(monitor: Any, world: Any) -> None:
    """After a promotion the labels of the version before judge nothing any more."""
    await monitor.promote(1)
    old = hour_of(world, 0)
    await monitor.serve(old)
    await monitor.promote(2, world.START + 30 * MINUTE)
    new = hour_of(world, 1, version=2, epoch=2)
    await monitor.serve(new)
    await monitor.serve(hour_of(world, 2, version=2, epoch=2))
    late = labels_of(world, old, delay=world.HOUR)
    [one] = measured(await monitor.labels([*late, *labels_of(world, new)], world.START + 2 * world.HOUR))
    assert one.window.start == world.START + world.HOUR, "the first whole hour after the promotion"
    assert (one.version, one.epoch, one.predictions, one.labels) == (2, 2, 60, 59)


async def test_a_lost_commit_changes_nothing(monitor: Any, world: Any) -> None:
    """Each fact is handled, rolled back and handled again: the same windows with the same values."""
    await monitor.promote(1)
    for hour in range(3):
        rows = hour_of(world, hour)
        await monitor.serve(rows, again=True)
        await monitor.labels(labels_of(world, rows), world.START + (hour + 1) * world.HOUR - MINUTE, again=True)
    said = measured(monitor.said)
    assert [(one.predictions, one.labels) for one in said] == [(60, 59), (60, 60)]


async def test_drift_of_an_input_is_one_episode(monitor: Any, world: Any) -> None:
    """A feature that moves away opens one episode with its score; the next version's promotion ends it."""
    await monitor.promote(1)
    for hour in range(6):
        rows = hour_of(world, hour, rows=1000)
        for number, one in enumerate(rows):
            one.carrier = ("UA", "AA", "DL", "B6")[number % 4]
            one.temp = 60.0 if hour >= 2 else world.temps[number]
        await monitor.serve(rows)
        await monitor.labels(labels_of(world, rows), world.START + (hour + 1) * world.HOUR - MINUTE)
    detected = [one for one in monitor.said if isinstance(one, DriftDetected) and one.kind == "data"]
    assert len(detected) == 1
    assert detected[0].features[0].name == "temp"
    assert detected[0].version == 1
    resolved = [one for one in await monitor.promote(2, world.START + 6 * world.HOUR) if isinstance(one, DriftResolved)]
    assert [(one.episode, one.why) for one in resolved if one.kind == "data"] == [(detected[0].episode, "replaced")]


async def test_predictions_before_the_reference_are_binned_when_it_is_there(monitor: Any, world: Any) -> None:
    """No window closes without its reference, and no early prediction is missing from its bins."""
    await monitor.tell(world.promotion(1, world.START, 48_000))
    await monitor.serve(hour_of(world, 0, rows=500))
    await monitor.serve(hour_of(world, 1, rows=500))
    assert await monitor.labels([], world.START + world.HOUR) == ()
    said = await monitor.build_reference(1)
    assert len(measured(said)) == 1
    async with monitor.edge.reading() as connection:
        assert await connection.fetchval("SELECT count(*) FROM unbinned") == 0
        assert await connection.fetchval("SELECT count(*) FROM binned") == 2


async def test_nothing_that_is_not_finite_is_judged(monitor: Any, world: Any) -> None:
    """A storm of NaN in outputs and inputs: kept, counted, never part of a metric or of the detector."""
    await monitor.promote(1)
    rows = hour_of(world, 0)
    for one in rows[::2]:
        one.chance, one.temp = float("nan"), float("nan")
    rows[1].chance = float("inf")
    await monitor.serve(rows)
    await monitor.serve(hour_of(world, 1))
    [one] = measured(await monitor.labels(labels_of(world, rows), world.START + world.HOUR))
    assert one.labels == 28  # 30 finite, one infinite, the last one's label is the next hour's
    assert all(metric.value == metric.value for metric in one.metrics)


async def test_a_stranger_s_predictions_are_refused(monitor: Any, world: Any) -> None:
    """Truncated Arrow, missing columns and unknown models each have their own named fate."""
    await monitor.promote(1)
    whole = world.served(hour_of(world, 0))
    with pytest.raises(RejectedEvent):
        await monitor.tell(PredictionsServed(model=world.MODEL, body=whole[: len(whole) // 2]))
    with pytest.raises(RejectedEvent):
        await monitor.tell(PredictionsServed(model=world.MODEL, body=b"no arrow"))
    sink = pa.BufferOutputStream()
    table = pa.table({"prediction_id": ["1"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(RejectedEvent):
        await monitor.tell(PredictionsServed(model=world.MODEL, body=sink.getvalue().to_pybytes()))
    with pytest.raises(ModelNotYetKnown):
        await monitor.tell(PredictionsServed(model="nobody", body=whole))
