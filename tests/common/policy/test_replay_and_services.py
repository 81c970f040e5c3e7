"""Replay's steps and the services' are one: the same rows in, the same values out."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

import ctloop as ct
from ctloop.compiler import manifest_of
from ctloop.events.manifest import Manifest
from ctloop.events.values import EvaluatedNode, Window
from ctloop.policy.decide import Decision
from ctloop.replay.bench import Bench, Settings
from ctloop.replay.loop import Loop
from ctloop.replay.rows import micros, moment, rows_of
from ctloop_monitoring.domain import judge
from ctloop_monitoring.domain.champion import Champion
from ctloop_monitoring.domain.columns import Judged
from ctloop_training.domain.parts import parts_of
from ctloop_validation.domain.model_challenge import unseen

START = datetime(2024, 1, 1, tzinfo=UTC)
ROWS, EVERY, DELAY = 20_000, timedelta(seconds=40), timedelta(minutes=20)


class Visit(ct.Record, id="visit", time="at"):
    visit: str
    at: datetime
    size: float
    bought: bool = ct.label()


@ct.model(Visit, metric="log_loss", report=["auc"])
def visits(X: Any, y: Any) -> Any:
    return LogisticRegression().fit(X, y)


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return manifest_of(visits, "model")


@pytest.fixture(scope="module")
def loop(manifest: Manifest) -> Loop:
    generator = np.random.default_rng(5)
    size = generator.normal(size=ROWS)
    sign = np.where(np.arange(ROWS) < 14_000, 1.0, -1.0)
    table = pa.table(
        {
            "visit": [f"v{number}" for number in range(ROWS)],
            "at": pa.array([START + number * EVERY for number in range(ROWS)], pa.timestamp("us", "UTC")),
            "size": size,
            "bought": generator.random(ROWS) < 1 / (1 + np.exp(-2 * sign * size)),
        }
    )
    rows = rows_of(table, manifest.record, DELAY)
    bench = Bench(manifest, visits, rows, Settings(), lambda line: None)
    done = Loop(bench, bench.history_end())
    done.run()
    return done


def test_a_run_has_the_training_services_rows(loop: Loop) -> None:
    """The same windows of fit and gate, from what is known before the decision."""
    now = START + timedelta(days=5)
    decision = Decision(True, "performance", "", EvaluatedNode(text="", op="number"), now, max_rows=7_000)
    fitted = loop.bench.train(decision, 9)
    rows = loop.bench.rows
    known = np.flatnonzero((rows.times <= micros(now)) & (rows.known < micros(now)))
    parts = parts_of(rows.table.take(known), "at", decision.max_rows)
    assert fitted is not None and parts is not None
    assert (fitted.window, fitted.gate_window) == (parts.final_window, parts.gate_window)
    assert len(fitted.gate) + fitted.window.rows == 7_000


def test_the_gates_see_the_validation_services_rows(loop: Loop) -> None:
    """Those the champion has not learned from."""
    assert loop.champion is not None
    end = moment(loop.bench.rows.times[15_000])
    kept = unseen(loop.bench.rows.table, "at", end)
    assert kept.num_rows == int((loop.bench.rows.times >= micros(end)).sum()) == ROWS - 15_000


def test_a_window_is_measured_as_monitoring_does(loop: Loop, manifest: Manifest) -> None:
    """Every value and interval of every window that replay decided on."""
    rows, probabilities = loop.bench.rows, loop.outputs
    watched = loop.champion
    assert watched is not None
    start, end = watched.next_end - watched.step, watched.next_end
    ours = loop._measure(watched, start, end)  # pyright: ignore[reportPrivateUsage]
    inside = (rows.known >= micros(start)) & (rows.known < micros(end)) & (loop.served == watched.version)
    chosen = np.flatnonzero(inside)
    assert len(chosen) > 100
    held = [
        (str(one), float(probabilities[one, 1]), probabilities[one].tobytes(), rows.classes[rows.y[one]], None,
         moment(rows.known[one]), moment(rows.times[one]))
        for one in chosen
    ]  # fmt: skip
    theirs = judge.measure(
        champion(watched.version, watched.epoch, watched.fitted.window, rows.classes),
        manifest, Judged.of(held), [0.0] * ours.predictions, Window(start=start, end=end), end,
    )  # fmt: skip
    assert theirs == ours


def test_the_grid_is_monitorings(loop: Loop) -> None:
    """The first window after a promotion, and the step."""
    assert loop.champion is not None
    fitted = loop.champion.fitted
    step = judge.step(fitted.window)
    assert loop.champion.step == step == timedelta(days=1)
    first = judge.end_after(fitted.gate_window.end, step)
    assert (loop.champion.next_end - first) % step == timedelta(0)


def champion(version: int, epoch: int, window: Window, classes: tuple[str, ...]) -> Champion:
    return Champion(
        model="visits", dataset="visit", version=version, epoch=epoch, pipeline_digest="d", classes=classes,
        training_window=window, promoted_data_time=window.end, first_end=window.end, next_end=window.end,
        reference=None, reference_failed=None, detector=None, episodes=None,
    )  # fmt: skip
