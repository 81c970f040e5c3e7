"""Will a flight out of New York arrive more than 15 minutes late? Asked before it leaves, answered when it has landed."""

from datetime import datetime
from typing import Literal

from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import ctloop as ct


class Flight(ct.Record, id="flight", time="departs"):
    flight: str  # one occurrence: date, carrier, number, origin; joins labels and predictions
    departs: datetime
    carrier: str
    origin: Literal["EWR", "JFK", "LGA"]  # anything else: that row is quarantined with this line as the reason
    dest: str
    distance: float = ct.field(gt=0)
    temp: float | None
    wind_speed: float | None = ct.field(ge=0)
    visib: float | None
    minute: int = ct.derive("minute_of_day(departs)")  # the same in training and in the served ONNX
    weekday: int = ct.derive("weekday(departs)")
    late: bool = ct.label()  # comes when the flight has landed, under the same id


@ct.model(Flight, metric="log_loss", report=["auc"], cpus=2, owner="ops@example.org")
def flights(X, y, *, learning_rate: float = ct.log(0.02, 0.3), leaves: int = ct.integer(8, 64)):
    words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = make_column_transformer((words, ["carrier", "origin", "dest"]), remainder="passthrough")
    trees = HistGradientBoostingClassifier(learning_rate=learning_rate, max_leaf_nodes=leaves)
    return make_pipeline(columns, trees).fit(X, y)


flights.gate("auc >= champion.auc - 0.01", "p99_ms <= 20")
