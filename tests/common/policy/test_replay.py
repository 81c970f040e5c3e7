"""The whole policy over a table: prequential, with late labels, the same twice, and better than never retraining."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ctloop as ct
from ctloop.compiler import manifest_of
from ctloop.events.values import Verdict
from ctloop.problems import Problem
from ctloop.replay import ReplayResult, Settings, replay

START = datetime(2024, 1, 1, tzinfo=UTC)
ROWS, CHANGE = 30_000, 16_000
EVERY = timedelta(seconds=40)  # a window of a day holds 2,160 rows
DELAY = timedelta(minutes=20)


class Visit(ct.Record, id="visit", time="at"):
    visit: str
    at: datetime
    size: float = ct.field(ge=-100)
    kind: float | None
    bought: bool = ct.label()


@ct.model(Visit, metric="log_loss", report=["auc"])
def visits(X: Any, y: Any, *, strength: float = ct.log(0.1, 10.0)) -> Any:
    columns = make_column_transformer((StandardScaler(), ["size"]))
    return make_pipeline(columns, LogisticRegression(C=strength)).fit(X, y)


visits.gate("auc >= champion.auc - 0.05", "p99_ms <= 20")


class Trip(ct.Record, id="trip", time="at"):
    trip: str
    at: datetime
    size: float
    minutes: float = ct.label()


@ct.model(Trip)
def trips(X: Any, y: Any) -> Any:
    return LinearRegression().fit(X, y)


def table(change: int = CHANGE, **columns: Any) -> pa.Table:
    """What sells turns around at row ``change``."""
    generator = np.random.default_rng(5)
    size = generator.normal(size=ROWS)
    sign = np.where(np.arange(ROWS) < change, 1.0, -1.0)
    bought = generator.random(ROWS) < 1 / (1 + np.exp(-2 * sign * size))
    base = {
        "visit": [f"v{number}" for number in range(ROWS)],
        "at": pa.array([START + number * EVERY for number in range(ROWS)], pa.timestamp("us", "UTC")),
        "size": size,
        "kind": pa.nulls(ROWS, pa.float64()),
        "bought": bought,
    }
    return pa.table({**base, **columns})


def run(data: pa.Table, tracks: tuple[str, ...] = ("ctloop",), **settings: Any) -> ReplayResult:
    chosen = Settings(label_delay=DELAY, tracks=tracks, **settings)
    return replay(manifest_of(visits, "model"), visits, data, chosen)


@pytest.fixture(scope="module")
def result() -> ReplayResult:
    return run(table(), ("never", "periodic", "ctloop"))


def test_lost_performance_is_won_back(result: ReplayResult) -> None:
    """The first model, then a retrain that lost performance caused and that passed its gates; few fits."""
    loss = {one.name: one.value("log_loss") for one in result.tracks}
    never, ctloop = result.track("never"), result.track("ctloop")
    assert result.fits[0].trigger == "first-model" and result.fits[0].verdict is Verdict.PASSED
    promoted = [one for one in result.fits if one.verdict is Verdict.PASSED]
    assert promoted[1].trigger == "performance" and promoted[1].data_time > START + CHANGE * EVERY
    assert loss["ctloop"] < 0.75 * loss["never"] and never.fits == 1
    assert ctloop.fits == len(result.fits) < result.tracks[1].fits


def test_nothing_happens_before_the_change(result: ReplayResult) -> None:
    """As long as the world stays as it is, no run is asked for, and each decision says why not."""
    quiet = [one for one in result.decisions[1:] if one.data_time < START + CHANGE * EVERY]
    assert len(quiet) >= 2 and not any(one.acts for one in quiet) and all(one.reason for one in quiet)


def test_every_decision_can_say_why(result: ReplayResult) -> None:
    """Sentence, tree and the values of its nodes."""
    acted = next(one for one in result.decisions if one.trigger == "performance")
    shown = "\n".join(result.why(acted))
    assert "loss_low" in shown and "reference_high" in shown and acted.reason in shown
    assert any("promoted" in line for line in result.lines())


def test_the_same_table_gives_the_same_decisions_in_any_order(result: ReplayResult) -> None:
    """Deterministic; rows may be shuffled and repeated."""
    data = table()
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(ROWS), 2))
    again = run(data.take(order))
    assert again.to_json()["decisions"] == result.to_json()["decisions"]


def test_a_row_is_never_judged_by_a_model_that_saw_its_label(result: ReplayResult) -> None:
    """A label known later changes nothing earlier: hiding all labels after a data time keeps the decisions before."""
    cut = START + 24_000 * EVERY
    observed = [START + number * EVERY + DELAY for number in range(ROWS)]
    hidden = [None if at >= cut else value for at, value in zip(observed, table()["bought"].to_pylist(), strict=True)]
    shorter = run(table(bought=pa.array(hidden, pa.bool_())))
    before = [one for one in result.to_json()["decisions"] if datetime.fromisoformat(one["data_time"]) <= cut]
    assert before and shorter.to_json()["decisions"][: len(before)] == before


def test_observed_at_wins_over_the_delay(result: ReplayResult) -> None:
    """The table's own times of its labels."""
    observed = pa.array([START + number * EVERY + DELAY for number in range(ROWS)], pa.timestamp("us", "UTC"))
    chosen = Settings(label_delay=timedelta(days=900), tracks=("ctloop",))
    again = replay(manifest_of(visits, "model"), visits, table(observed_at=observed), chosen)
    assert again.to_json()["decisions"] == result.to_json()["decisions"]


def test_a_version_goes_live_when_the_stack_says(result: ReplayResult) -> None:
    """live_from: until then the one before answers and is judged, and nothing else is decided meanwhile."""
    second = next(one for one in result.fits[1:] if one.verdict is Verdict.PASSED)
    live = second.data_time + timedelta(days=2)
    late = run(table(), live_from={second.version: live})
    versions: Mapping[datetime, int] = {one.data_time: one.version for one in late.decisions}
    waiting = [one for one in late.decisions if second.data_time < one.data_time < live]
    assert waiting and not any(one.acts for one in waiting)
    assert max(versions.values()) >= second.version
    assert late.track("ctloop").value("log_loss") > result.track("ctloop").value("log_loss")


def test_bad_rows_are_dropped_and_counted() -> None:
    """What validation would quarantine: broken bounds, missing values that may not be."""
    size = table()["size"].to_pylist()
    size[10], size[20] = -1e6, None
    assert run(table(size=pa.array(size, pa.float64()))).dropped == 2


def test_a_regression_closes_its_loop_too() -> None:
    """Squared error decides, and there are no classes."""
    generator = np.random.default_rng(6)
    size = generator.normal(size=ROWS)
    slope = np.where(np.arange(ROWS) < CHANGE, 2.0, -1.0)
    data = pa.table(
        {
            "trip": [str(number) for number in range(ROWS)],
            "at": table()["at"],
            "size": size,
            "minutes": slope * size + generator.normal(size=ROWS),
        }
    )
    found = replay(manifest_of(trips, "model"), trips, data, Settings(tracks=("never", "ctloop")))
    assert found.track("ctloop").value("rmse") < 0.8 * (found.track("never").value("rmse") or 0)


def test_too_few_labels_is_a_problem_not_a_crash() -> None:
    """It says how many there are."""
    with pytest.raises(Problem, match="labelled rows"):
        run(table().slice(0, 90))


def test_the_picture_is_a_png(result: ReplayResult, tmp_path: Path) -> None:
    """One line per track."""
    result.picture(tmp_path / "replay.png")
    assert (tmp_path / "replay.png").read_bytes().startswith(b"\x89PNG")
