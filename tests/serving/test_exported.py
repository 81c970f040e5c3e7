"""A model as the platform really makes it: fitted, exported, promoted, and asked over HTTP."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from ctloop import columns, onnx_export
from ctloop.events.manifest import DerivedSpec, FieldSpec, Manifest, RecordSpec

START = datetime(2013, 1, 1, tzinfo=UTC)
FIELDS = (
    FieldSpec(name="trip", kind="string"),
    FieldSpec(name="at", kind="time"),
    FieldSpec(name="carrier", kind="string"),
    FieldSpec(name="distance", kind="number", nullable=True),
    FieldSpec(name="stops", kind="integer"),
)
DERIVED = (DerivedSpec(name="minute", kind="integer", expression="minute_of_day(at)"),)


def rows_of(count: int) -> list[dict[str, Any]]:
    """Rows as a client would send them."""
    dice = np.random.default_rng(5)
    return [
        {
            "trip": f"t{one}",
            "at": (START + timedelta(minutes=int(dice.integers(0, 100_000)))).isoformat(),
            "carrier": str(dice.choice(["UA", "AA", "DL"])),
            "distance": None if dice.random() < 0.1 else float(dice.normal(500, 200)),
            "stops": int(dice.integers(0, 3)),
        }
        for one in range(count)
    ]


@pytest.mark.parametrize("task", ["classification", "regression"])
async def test_answers_are_the_estimator_s(replica: Any, promoted: Callable[..., Any], task: str) -> None:
    """Rows with categories, missing values and a derived time are answered as scikit-learn answers them."""
    label = FieldSpec(name="late", kind="boolean" if task == "classification" else "number")
    record = RecordSpec(dataset="trip", id="trip", time="at", fields=FIELDS, derived=DERIVED, label=label)
    rows = rows_of(800)
    table = pa.table(
        {
            name: pa.array([datetime.fromisoformat(row["at"]) if name == "at" else row[name] for row in rows])
            for name in ("trip", "at", "carrier", "distance", "stops")
        }
    )
    classes = ("false", "true") if task == "classification" else ()
    frame = columns.to_frame(table, record)
    cost = frame["minute"] / 100 + frame["stops"] * 3 + frame["distance"].fillna(0) / 100
    words = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["carrier"]), remainder="passthrough"
    )
    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    truth = (cost > cost.median()).astype(int) if classes else cost
    estimator = make_pipeline(words, kind(max_iter=20, random_state=0)).fit(frame, truth)
    exported = onnx_export.export(estimator, record, table, classes)
    base = promoted(replica.objects, 1, 1)
    model = Manifest.model_validate(
        replica.deployments.current["weather-delays"].manifest.model_dump() | {"model": "trips", "record": record}
    )
    replica.cache.keep_manifest("trips-manifest", model)
    onnx = replica.objects.put(exported.body, "onnx")
    pointer = base.model_copy(
        update={
            "model": "trips",
            "onnx": onnx,
            "digest": onnx.sha256,
            "golden": replica.objects.put(onnx_export.golden(exported, table), "arrow"),
            "signature": exported.signature,
            "pipeline_digest": "trips-manifest",
        }
    )
    await replica.rollout.deploy(pointer)
    answer = await replica.client.post("/v1/models/trips/predict", json=rows)
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    if classes:
        said = [one["probabilities"]["true"] for one in found]
        expected = estimator.predict_proba(frame)[:, 1]
    else:
        said, expected = [one["prediction"] for one in found], estimator.predict(frame)
    assert np.abs(np.array(said) - expected).max() < 1e-4
