"""Served predictions are data like any other."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pyarrow as pa
from hostile import BOMBS

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


async def test_bad_predictions_are_refused_and_good_ones_go_on(world: Any) -> None:
    """Whatever is on their topic: by name in quarantine, or a row of raw bytes; one of an unknown model waits."""
    await world.release()
    when = datetime(2013, 1, 5, tzinfo=UTC)

    def envelope(model: str = "late-flights", content_type: str = ARROW_STREAM) -> Envelope:
        return Envelope(
            id=uuid4(), source="/ctloop/serving", type=PredictionsServed.type(), subject=model, time=when,
            content_type=content_type,
        )  # fmt: skip

    good: dict[str, Any] = {
        "prediction_id": [str(uuid4())], "version": pa.array([1]), "epoch": pa.array([1]), "output": [0.5],
        "data_time": pa.array([when], MICROS),
    }  # fmt: skip
    whole = write_arrow(pa.table(good))
    refused = [
        ("truncated", envelope(), whole[:-20]),
        ("too-large", envelope(), BOMBS["dictionary"]()),
        ("unsupported-format", envelope(content_type="application/x-ndjson"), b"{}"),
        ("undecodable", envelope("n" * 250), whole),
    ]
    for _, cause, body in refused:
        await world.produce(PredictionsServed.topic, cause, body)
    odd: list[dict[str, Any]] = [
        {"probabilities": ["0.5"]},  # a column of another type than lists
        {"output": [{"a": 1}]},
        {"data_time": pa.array([2**62], MICROS)},
        {"probabilities": pa.array([[1]], pa.list_(pa.int64()))},
    ]
    for change in odd:
        ids = {"prediction_id": [str(uuid4())]}
        await world.produce(PredictionsServed.topic, envelope(), write_arrow(pa.table({**good, **ids, **change})))
    await world.produce(PredictionsServed.topic, envelope("nobody"), whole)
    await world.produce(PredictionsServed.topic, envelope(), whole)
    assert await world.value("SELECT count(*) FROM quarantine HAVING count(*) = 4") == 4
    reasons = await world.value("SELECT array_agg(reason ORDER BY reason) FROM quarantine")
    assert reasons == sorted(one[0] for one in refused)
    assert await world.value("SELECT reason FROM parked") == "unknown-model"
    said = await world.validated(1)
    while sum(one.rows + sum(rule.rows for rule in one.quarantined) for one in said) < len(odd) + 1:
        said = await world.validated(len(said) + 1)
    assert sum(one.rows for one in said) == 1
    rules = [
        rule.rule.partition(":")[2][:16].strip() for one in said for rule in one.quarantined for _ in range(rule.rows)
    ]
    assert sorted(rules) == ["not a time", "schema-mismatch", "schema-mismatch", "schema-mismatch"]
