"""Derived columns: training (Arrow) and serving (ONNX) compute the same float32 values, and times as Python's calendar."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ctloop.derived import MISSING_TIME, OnArrays, OnGraph, carry_out, parse
from ctloop.problems import Problem

KINDS = {"at": "time", "a": "number", "b": "integer", "word": "string", "flag": "boolean"}
EXPRESSIONS = (
    "minute_of_day(at)", "hour(at)", "weekday(at)", "day(at)", "month(at)", "year(at)",
    "a + b", "a - b * 2", "a / b", "-a", "abs(a) + log1p(b)", "min(a, b)", "max(a, b)",
    "a < b", "a <= b", "a > 3", "a >= b", "a == b", "a != b", "hour(at) * 60 + a", "log1p(a) / (b - 1)",
)  # fmt: skip
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def on_graph(text: str, columns: dict[str, Any], opset: int) -> np.ndarray[Any, Any]:
    """The expression as a graph of its own, run by ONNX Runtime."""
    expression, algebra = parse(text, KINDS), OnGraph("t")
    algebra.column(carry_out(expression, algebra), "out")
    inputs = [helper.make_tensor_value_info(one, TensorProto.FLOAT, [None, 1]) for one in expression.numbers]
    inputs += [helper.make_tensor_value_info(one, TensorProto.INT64, [None, 1]) for one in expression.times]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [None, 1])
    graph = helper.make_graph(algebra.nodes, "t", inputs, [output], algebra.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {one: columns[one].astype(np.float32).reshape(-1, 1) for one in expression.numbers}
    feeds |= {one: columns[one].reshape(-1, 1) for one in expression.times}
    return np.asarray(session.run(None, feeds)[0]).reshape(-1)


def on_arrays(text: str, columns: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The expression over columns, rounded as a feature is."""
    value = np.asarray(carry_out(parse(text, KINDS), OnArrays(columns)), np.float64)
    return np.broadcast_to(value, columns["a"].shape).astype(np.float32)


NUMBERS = st.one_of(st.just(float("nan")), st.integers(-5, 5).map(float), st.floats(-1e9, 1e9, width=32))
TIMES = st.one_of(
    st.just(MISSING_TIME),
    st.datetimes(datetime(1890, 1, 1), datetime(2199, 12, 31)).map(
        lambda one: (one.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    ),
)


@pytest.mark.parametrize("text", EXPRESSIONS)
@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.tuples(TIMES, NUMBERS, NUMBERS), min_size=1, max_size=40))
def test_training_and_serving_compute_the_same(text: str, rows: list[tuple[int, float, float]]) -> None:
    """Random rows with missing values, negative numbers and dates before 1970 give equal columns, to the last bit but logs."""
    at, a, b = (np.array(one) for one in zip(*rows, strict=True))
    columns = {"at": at.astype(np.int64), "a": a.astype(float), "b": b.astype(float)}
    ours = on_arrays(text, columns)
    for theirs in (on_graph(text, columns, 11), on_graph(text, columns, 18)):  # what converters settle on
        if "log1p" in text:
            np.testing.assert_allclose(ours, theirs, rtol=3e-7, atol=1e-7)
        else:
            np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=300, deadline=None)
@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_times_are_pythons_calendar(naive: datetime) -> None:
    """Every part of a time is what datetime says of it, leap days and years before 1970 included."""
    time = naive.replace(tzinfo=UTC)
    micros = np.array([(time - EPOCH) // timedelta(microseconds=1)])
    columns = {"at": micros, "a": np.zeros(1), "b": np.zeros(1)}
    found = {part: int(on_arrays(f"{part}(at)", columns)[0]) for part in ("year", "month", "day", "hour", "weekday")}
    assert found == {
        "year": time.year, "month": time.month, "day": time.day, "hour": time.hour, "weekday": time.weekday(),
    }  # fmt: skip
    assert int(on_arrays("minute_of_day(at)", columns)[0]) == time.hour * 60 + time.minute


def test_what_is_not_finite_is_missing() -> None:
    """Division by zero, the logarithm of what is not positive and too large numbers are missing, not infinite."""
    columns = {"at": np.zeros(3, np.int64), "a": np.array([1.0, -1.0, 3e38]), "b": np.array([0.0, -1.0, 10.0])}
    assert np.isnan(on_arrays("a / b", columns)).tolist() == [True, False, False]
    assert np.isnan(on_arrays("log1p(b)", columns)).tolist() == [False, True, False]
    assert np.isnan(on_arrays("a * b", columns)).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("minute_of_day(a)", "takes one time column"),
        ("word + 1", "of kind string"),
        ("flag + 1", "of kind boolean"),
        ("nothing + 1", "no column 'nothing'"),
        ("at + 1", "got a time"),
        ("at", "computes nothing"),
        ("1", "computes nothing"),
        ("a +", "not an expression"),
        ("sqrt(a)", "no function 'sqrt'"),
        ("min(a)", "takes 2"),
        ("a if b else a", "not in the language"),
        ("__import__('os')", "is not a number"),
        ("a < b < a", "not in the language"),
        ("a == 'x'", "is not a number"),
        (" + ".join(["a"] * 200), "too long"),
    ],
)
def test_a_wrong_expression_says_what_is_wrong(text: str, says: str) -> None:
    """Each mistake is CT1106 with the name at fault in its cause."""
    with pytest.raises(Problem, match="CT1106") as caught:
        parse(text, KINDS)
    assert says in caught.value.cause
