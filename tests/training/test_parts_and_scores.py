"""How rows are divided, what predictions are worth, and when the inference form is not the estimator."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from ctloop.policy.losses import measure
from ctloop_training.domain.parts import parts_of
from ctloop_training.domain.scores import parity_of, parity_problem
from ctloop_training.run_task import deciding
from ctloop_training.user_process import UserFailed

START = datetime(2026, 1, 1, tzinfo=UTC)


def table(rows: int) -> pa.Table:
    times = [START + timedelta(hours=number) for number in range(rows)]
    return pa.table({"seen": pa.array(times, pa.timestamp("us", "UTC")), "number": range(rows)})


def test_the_newest_rows_are_the_gate_s_and_are_given_to_nobody() -> None:
    """Fit, search and gate follow one another in time; windows end just after their last row."""
    parts = parts_of(table(1000), "seen", None)
    assert parts is not None
    fit, search, final = (one.column("number").to_pylist() for one in (parts.fit, parts.search, parts.final))
    assert fit + search == final == list(range(800))
    assert parts.final_window.end <= parts.gate_window.start == START + timedelta(hours=800)
    assert parts.final_window.end - timedelta(microseconds=1) == START + timedelta(hours=799)
    assert (parts.final_window.rows, parts.gate_window.rows) == (800, 200)


def test_only_the_newest_rows_are_taken() -> None:
    """When a decision limits them."""
    parts = parts_of(table(1000), "seen", 500)
    assert parts is not None and parts.fit.column("number")[0].as_py() == 500


@pytest.mark.parametrize(("rows", "enough"), [(0, False), (99, False), (100, True)])
def test_too_few_rows(rows: int, enough: bool) -> None:
    """Below 100 nothing is trained."""
    assert (parts_of(table(rows), "seen", None) is not None) is enough


@pytest.mark.parametrize(
    ("difference", "classes", "wrong"),
    [(1e-7, ("a", "b"), False), (0.2, ("a", "b"), True), (1e-6, (), False), (5.0, (), True)],
)
def test_parity(difference: float, classes: tuple[str, ...], wrong: bool) -> None:
    """Rounding passes, other answers do not; values are compared with their spread."""
    estimator = np.linspace(0.1, 0.9, 50).reshape(-1, 1)
    if classes:
        estimator = np.hstack([1 - estimator, estimator])
    found = parity_of(estimator, estimator + difference)
    assert (parity_problem(found, estimator, estimator + difference, classes) is not None) is wrong


@pytest.mark.parametrize(("share", "wrong"), [(0.01, False), (0.2, True)])
def test_a_few_rows_on_an_edge_are_no_wrong_form(share: float, wrong: bool) -> None:
    """One row of a hundred that lies on a threshold answers otherwise; a converter that is wrong is wrong about many."""
    estimator = np.linspace(0.1, 0.9, 1000).reshape(-1, 1)
    onnx = np.where(np.arange(1000).reshape(-1, 1) < share * 1000, estimator + 0.2, estimator)
    assert (parity_problem(parity_of(estimator, onnx), estimator, onnx, ()) is not None) is wrong


def test_predictions_beyond_all_numbers_are_no_model() -> None:
    """Their squares are infinite: the metric is left out, and the run says so."""
    metrics = measure(("rmse",), np.full((3, 1), 1e308), np.array([1.0, 2.0, 3.0]), 0)
    with pytest.raises(UserFailed, match="no finite rmse"):
        deciding(metrics, "rmse")
