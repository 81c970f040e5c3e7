"""The one story: model files are applied, data arrives, models are trained, judged, promoted and answer; and why."""

import importlib.util
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from waiting import until

import ctloop.local
from ctloop.cli.declaring import wait_until_known
from ctloop.client import Client
from ctloop.compiler import compile_file
from ctloop.local.state import Stack
from ctloop.problems import Exit, Problem

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.e2e, pytest.mark.stack, pytest.mark.timeout(400)]
FIRST = datetime(2020, 1, 1, tzinfo=UTC)
TRIPS = """
from datetime import datetime
from sklearn.linear_model import LogisticRegression
import ctloop as ct


class Trip(ct.Record, id="trip", time="at"):
    trip: str
    at: datetime
    length: float = ct.field(ge=0)
    late: bool = ct.label()


@ct.model(Trip)
def trips(X, y):
    return LogisticRegression().fit(X, y)
"""


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    """The SDK on the whole stack."""
    with Client(urls=stack.urls) as made:
        yield made


def apply(client: Client, file: Path) -> None:
    for compiled in compile_file(file):
        wait_until_known(client, client.apply(compiled.manifest, compiled.bundle))


def champion(client: Client, model: str) -> Any:
    try:
        return client.champion(model)
    except Problem as problem:
        if problem.exit_code is Exit.NOT_FOUND:
            return None
        raise


def closed(client: Client, model: str) -> Any:
    loops = [one for one in client.loops(model)["items"] if one["state"] == "closed"]
    return loops[0] if loops else None


def trips(first: int, rows: int) -> pa.Table:
    """Trips whose lateness follows their length."""
    random = np.random.default_rng(first)
    length = random.uniform(0, 10, rows)
    at = [FIRST + timedelta(minutes=first + number) for number in range(rows)]
    late = random.random(rows) < 1 / (1 + np.exp(5 - length))
    return pa.table(
        {
            "trip": [f"t{first + number}" for number in range(rows)],
            "at": pa.array(at, pa.timestamp("us", "UTC")),
            "length": length,
            "late": late,
        }
    )


def test_the_first_loop_closes_and_tells_why(client: Client, tmp_path: Path) -> None:
    """Rows with labels arrive; the model is live with its evidence, and every step can be asked about."""
    (tmp_path / "trips.py").write_text(TRIPS)
    apply(client, tmp_path / "trips.py")
    bad = trips(900_000, 3).set_column(2, "length", pa.array([-1.0, -2.0, -3.0]))
    client.send("trip", pa.concat_tables([trips(0, 1000), bad]))
    loop = until(lambda: closed(client, "trips"), "the first loop of trips")
    assert loop["trigger"] == "first-model"
    assert loop["platform_seconds"] is not None
    now = champion(client, "trips")
    assert (now["version"], now["epoch"]) == (1, 1)
    answer = client.predict("trips", {"trip": "ask-1", "length": 9.0})
    assert (answer["version"], answer["epoch"], answer["digest"]) == (1, 1, now["digest"])
    assert answer["prediction"] in (True, "true")
    why = client.why("trips", 1)
    assert why["decision"]["tree"]["value"] is True
    assert all(gate["passed"] for gate in why["validated"][-1]["gates"])
    validated = [
        one["data"] or one["sentence"]
        for one in client.timeline(model="trips")["items"]
        if one["fact"] == "DataValidated"
    ]
    assert "3 quarantined" in str(validated)


def test_a_second_model_file_closes_its_loop_on_the_running_stack(client: Client) -> None:
    """A regression over other data, without a restart."""
    spec = importlib.util.spec_from_file_location("progression_data", ROOT / "examples" / "progression" / "data.py")
    assert spec is not None
    assert spec.loader is not None
    data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(data)
    apply(client, ROOT / "examples" / "progression" / "progression.py")
    table = data.visits()
    client.send("visit", table.drop_columns(["progression", "observed_at"]))
    client.send("visit", table.select(["visit", "progression", "observed_at"]))
    until(lambda: closed(client, "progression"), "the loop of progression")
    row = table.drop_columns(["progression", "observed_at"]).slice(0, 1).to_pylist()[0]
    assert 20 < client.predict("progression", row)["prediction"] < 350


def test_a_person_may_train_again_and_go_back(client: Client) -> None:
    """Retrain by hand makes a second version or a refusal with its gates; the pointer goes back by a new epoch."""
    until(lambda: champion(client, "trips"), "a champion of trips")
    client.send("trip", trips(2000, 1000))
    client.retrain("trips", reason="the test asks")
    judged = until(
        lambda: [one for one in client.loops("trips")["items"] if one["trigger"] == "manual" and one["ended_at"]],
        "the end of the loop asked for by hand",
    )
    assert judged[0]["state"] in ("closed", "refused")
    if judged[0]["state"] == "closed":
        before = champion(client, "trips")
        client.rollback("trips", reason="the test goes back")
        after = champion(client, "trips")
        assert after["epoch"] == before["epoch"] + 1
        assert after["version"] != before["version"]


@pytest.mark.parametrize(
    ("number", "service"), enumerate(["ingestion", "validation", "training", "registry", "monitoring", "console"])
)
def test_a_killed_service_comes_back_and_the_loop_goes_on(
    client: Client, stack: Stack, number: int, service: str
) -> None:
    """kill -9 of any service: rows sent right after it are disposed of once, none is lost."""
    until(lambda: champion(client, "trips"), "a champion of trips")
    first = 10_000 + 100 * number
    before = landed(client)
    ctloop.local.kill(stack.data_dir, service)
    until(lambda: sent(client, trips(first, 50)), f"the door, {service} having been killed")
    until(lambda: landed(client) == before + 50, f"50 rows more, {service} having been killed")
    assert client.predict("trips", {"trip": f"ask-{service}", "length": 1.0})["version"] >= 1


def sent(client: Client, table: pa.Table) -> bool:
    """Send under a key of the rows, so that sending again is sending the same."""
    try:
        client.send("trip", table, key=table.column("trip")[0].as_py())
    except Problem:
        return False
    return True


def landed(client: Client) -> int:
    """Rows of the dataset trip that were accepted."""
    try:
        audits = client.audits("trip")["items"]
    except Problem:
        return -1
    return sum(one["rows"] for one in audits)
