"""Served predictions are data like any other."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pyarrow as pa

from ctloop.events.data import PredictionsServed
from ctloop.events.envelope import ARROW_STREAM, Envelope
from ctloop_ingestion.domain.bodies import write_arrow

MICROS = pa.timestamp("us", "UTC")


async def test_predictions_land_as_a_dataset_of_their_own(world: Any) -> None:
    """A row that lacks its id is quarantined; the others are in the lake with their inputs and probabilities."""
    await world.release()
    when = datetime(2013, 1, 5, tzinfo=UTC)
    table = pa.table(
        {
            "prediction_id": pa.array([str(uuid4()), str(uuid4()), None]),
            "record_id": pa.array(["F1", None, "F3"]),
            "version": pa.array([1, 1, 1], pa.int64()),
            "epoch": pa.array([1, 1, 1], pa.int64()),
            "output": pa.array([0.25, 0.75, 0.5]),
            "label": pa.array(["false", "true", "true"]),
            "probabilities": pa.array([[0.75, 0.25], [0.25, 0.75], None], pa.list_(pa.float64())),
            "data_time": pa.array([when] * 3, MICROS),
            "served_at": pa.array([when] * 3, MICROS),
            "input.distance": pa.array([100.0, None, 3.0], pa.float32()),
            "input.carrier": pa.array(["UA", "AA", None]),
        }
    )
    envelope = Envelope(
        id=uuid4(),
        source="/ctloop/serving",
        type=PredictionsServed.type(),
        subject="late-flights",
        time=when,
        content_type=ARROW_STREAM,
    )
    await world.produce(PredictionsServed.topic, envelope, write_arrow(table))
    (said,) = await world.validated(1)
    assert (said.dataset, said.rows, said.labelled) == ("late-flights.predictions", 2, 0)
    assert [(one.rule, one.rows) for one in said.quarantined] == [("prediction_id: missing", 1)]
    assert said.data_time == when
    found = world.validation.jobs.lake.read(said.dataset, said.version, labelled=False)
    assert found.select(["record_id", "input.distance", "probabilities"]).to_pylist() == [
        {"record_id": "F1", "input.distance": 100.0, "probabilities": [0.75, 0.25]},
        {"record_id": None, "input.distance": None, "probabilities": [0.25, 0.75]},
    ]
