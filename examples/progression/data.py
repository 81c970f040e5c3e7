"""scikit-learn's diabetes data as visits: one a day, the label known a year after the visit."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from sklearn.datasets import load_diabetes

FIRST = datetime(2000, 1, 1, tzinfo=UTC)


def visits() -> pa.Table:
    """All visits with ``progression`` and ``observed_at``."""
    found: Any = load_diabetes(scaled=False)
    days = [FIRST + timedelta(days=number) for number in range(len(found.target))]
    columns = {name: found.data[:, place] for place, name in enumerate(found.feature_names)}
    return pa.table(
        {
            "visit": [f"visit-{number:03}" for number in range(len(days))],
            "at": pa.array(days, pa.timestamp("us", "UTC")),
            **columns,
            "progression": found.target,
            "observed_at": pa.array([day + timedelta(days=365) for day in days], pa.timestamp("us", "UTC")),
        }
    )
