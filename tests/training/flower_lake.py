"""A model file over flowers, their records and labels, and orders to train on them."""

import json
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid5

import numpy as np
import pyarrow as pa

from ctloop.compiler import compile_file
from ctloop.events.manifest import Manifest
from ctloop.events.values import DatasetVersion, Window
from ctloop.local.state import Stack
from ctloop.platform.settings import RaySettings, S3Settings
from ctloop.platform.storage import ARRIVED, SEQUENCE
from ctloop.platform.storage.object_store import ObjectStore
from ctloop_training.run_spec import RunOrder, RunSpec

NAMESPACE = UUID("0b8d5d6e-9b7f-4f7e-8f0d-4d2c9a6f1e10")
START = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 600

FLOWERS = """
from datetime import datetime
import ctloop as ct
{imports}

class Flower(ct.Record, id="flower", time="seen"):
    flower: str
    seen: datetime
    width: float
    height: float | None
    colour: str
    tall: bool = ct.label()

@ct.model(Flower, metric="log_loss", report=["auc"], trials={trials}, time_limit={time_limit})
def flowers(X, y, *, C: float = ct.log(0.01, 100.0)):
{body}
"""
GOOD_IMPORTS = """from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
"""
GOOD = """    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["colour"]),
        (SimpleImputer(), ["width", "height"]),
    )
    print("fitting", len(X), "rows")
    return make_pipeline(columns, LogisticRegression(C=C)).fit(X, y)
"""


def flowers_file(body: str = GOOD, *, imports: str = GOOD_IMPORTS, trials: int = 3, time_limit: float = 60) -> str:
    """The text of a model file."""
    return FLOWERS.format(imports=imports, body=body, trials=trials, time_limit=time_limit)


@dataclass(frozen=True)
class Compute:
    """Where runs run and what they read."""

    stack: Stack
    s3: S3Settings
    ray: RaySettings
    objects: ObjectStore
    version: DatasetVersion

    def applied(self, text: str) -> Manifest:
        """A model file as the registry would hold it: compiled, its bundle stored."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "flowers.py"
            path.write_text(text)
            (compiled,) = compile_file(path)
        ref = self.objects.put(f"bundles/{compiled.manifest.bundle.sha256}.zip", compiled.bundle, format="zip")
        return compiled.manifest.model_copy(update={"bundle": ref})

    def order(self, manifest: Manifest, name: str) -> RunOrder:
        """A run over all flowers."""
        end = START + timedelta(hours=ROWS)
        spec = RunSpec(
            run_id=uuid5(NAMESPACE, name),
            decision_id=uuid5(NAMESPACE, f"decision {name}"),
            manifest=manifest,
            pipeline_digest=manifest.digest,
            dataset_version=self.version,
            data_time=end + timedelta(days=1),
            window=Window(start=START, end=end),
            cause="manual: a test",
        )
        return RunOrder(spec=spec, store=self.s3, prefix=f"attempts/{name}/1")


def flowers() -> tuple[pa.Table, pa.Table]:
    """Records and labels: wide flowers are tall, red ones more so; some heights are missing."""
    random = np.random.default_rng(7)
    times = [START + timedelta(hours=number) for number in range(ROWS)]
    width = random.normal(size=ROWS)
    colour = random.choice(["red", "blue"], ROWS)
    height = [None if number % 9 == 0 else float(random.normal()) for number in range(ROWS)]
    tall = width + (colour == "red") + random.normal(scale=0.5, size=ROWS) > 0.5
    ids = [f"f{number}" for number in range(ROWS)]
    utc = pa.timestamp("us", "UTC")
    records = pa.table(
        {
            "flower": ids,
            "seen": pa.array(times, utc),
            "width": width,
            "height": pa.array(height, pa.float64()),
            "colour": pa.array(colour.tolist()),
            SEQUENCE: pa.array(range(ROWS), pa.int64()),
            ARRIVED: pa.array(times, utc),
        }
    )
    labels = pa.table(
        {
            "id": ids,
            "value": pa.array(tall),
            "observed_at": pa.array([time + timedelta(hours=5) for time in times], utc),
            "sequence": pa.array(range(ROWS), pa.int64()),
        }
    )
    return records, labels


def json_of(body: bytes) -> dict[str, object]:
    """An object's JSON."""
    return json.loads(body)
