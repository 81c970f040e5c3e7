"""Labels late, early, twice, corrected and in any order end where a join over all of them ends."""

import random
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from ctloop.events.model import PerformanceMeasured
from ctloop.policy.losses import row_losses

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
HOURS = 4


def offline(world: Any, predictions: list[Any], labels: list[Any]) -> dict[int, tuple[int, float]]:
    """The slow, obvious join: per window the number of judged predictions and their mean log loss."""
    first: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for one in labels:
        if one.record_id not in first or one.at < first[one.record_id]:
            first[one.record_id] = one.at
        before = last.get(one.record_id)
        if before is None or (one.at, one.sequence) > (before.at, before.sequence):
            last[one.record_id] = one
    losses: dict[int, list[float]] = {hour: [] for hour in range(HOURS)}
    for one in predictions:
        if one.record_id not in first or one.at > first[one.record_id]:
            continue
        hour = (first[one.record_id] - world.START) // world.HOUR
        outputs = np.array([[1 - one.chance, one.chance]])
        losses[hour].append(float(row_losses("log_loss", outputs, np.array([int(last[one.record_id].late)]))[0]))
    return {hour: (len(found), float(np.mean(found)) if found else 0.0) for hour, found in losses.items()}


@pytest.mark.parametrize("seed", range(6))
async def test_any_order_of_labels_ends_at_the_offline_join(monitor: Any, world: Any, seed: int) -> None:
    """Permuted, repeated, corrected, early and late labels, in batches with predictions between them."""
    dice = random.Random(seed)
    await monitor.promote(1)
    predictions = [
        world.Prediction(
            f"r{dice.randrange(80)}", world.START + dice.random() * HOURS * world.HOUR, dice.random(), copy=one
        )
        for one in range(200)
    ]
    labels = []
    for number, record in enumerate({one.record_id for one in predictions}):
        for place in range(dice.choice([0, 1, 1, 1, 2, 3])):
            at = world.START + dice.random() * (HOURS * world.HOUR - timedelta(seconds=1))
            labels.append(world.Label(record, at, dice.random() < 0.5, number * 10 + place))
    expected = offline(world, predictions, labels)
    told = [*labels, *dice.sample(labels, len(labels) // 4)]
    dice.shuffle(told)
    waiting, data_time = list(predictions), world.START
    while told or waiting:
        rows = [waiting.pop() for _ in range(min(len(waiting), dice.randrange(40)))]
        if rows:
            await monitor.serve(rows, again=dice.random() < 0.2)
        batch = [told.pop() for _ in range(min(len(told), dice.randrange(20)))]
        data_time = max([data_time, *(one.at for one in batch)])
        await monitor.labels(batch, data_time, again=dice.random() < 0.2)
    await monitor.serve([world.Prediction(None, world.START + (HOURS + 1) * world.HOUR)])
    await monitor.labels([], world.START + HOURS * world.HOUR)
    latest: dict[int, PerformanceMeasured] = {}
    for one in monitor.said:
        if isinstance(one, PerformanceMeasured):
            latest[(one.window.start - world.START) // world.HOUR] = one
    assert sorted(latest) == list(range(HOURS))
    for hour, (count, loss) in expected.items():
        found = {metric.name: metric.value for metric in latest[hour].metrics}
        assert latest[hour].labels == count
        assert found.get("log_loss", 0.0) == pytest.approx(loss, abs=1e-9)
