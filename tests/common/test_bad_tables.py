"""Tables and rows that cannot be sent, replayed or predicted on: a problem with its code before anything is asked."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ctloop.client import predict_call, send_calls
from ctloop.events.manifest import FieldSpec, RecordSpec
from ctloop.problems import Problem
from ctloop.replay.rows import rows_of
from ctloop.tables import as_table, read_table

VISIT = RecordSpec(
    dataset="visit",
    id="visit",
    time="at",
    fields=(
        FieldSpec(name="visit", kind="string"),
        FieldSpec(name="at", kind="time"),
        FieldSpec(name="n", kind="integer", nullable=True),
        FieldSpec(name="word", kind="string", nullable=True),
    ),
    label=FieldSpec(name="back", kind="boolean"),
)
MICROS = pa.timestamp("us", "UTC")
GOOD: dict[str, Any] = {"visit": ["a", "b"], "at": pa.array([1, 2], MICROS), "n": [1, 2], "word": ["x", "y"],
                        "back": [True, False]}  # fmt: skip


def says(code: str, ask: Callable[[], Any]) -> Problem:
    """The problem something ends in."""
    with pytest.raises(Problem) as caught:
        ask()
    assert caught.value.code == code
    assert caught.value.cause and caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("empty.csv", b""),
        ("ragged.csv", b"a,b\n1\n"),
        ("twice.csv", b"a,a\n1,2\n"),
        ("utf16.csv", b"\xff\xfea\0"),
        ("broken.ndjson", b'{"a": }\n'),
        ("empty.ndjson", b""),
        ("array.json", b"[1, 2]"),
        ("deep.json", b"[" * 100_000),
        ("mixed.jsonl", b'{"a": 1}\n{"a": "x"}\n'),
        ("cut.parquet", b"PAR1 and so on PAR1"),
        ("cut.arrow", b"ARROW1"),
        ("no.suffix-we-know", b"abc"),
    ],
)
def test_a_file_that_is_no_table_is_a_problem(tmp_path: Path, name: str, body: bytes) -> None:
    """For `ctloop send` and `ctloop replay`; it names the file."""
    path = tmp_path / name
    path.write_bytes(body)
    assert name in says("CT2001", lambda: read_table(str(path))).cause


def test_a_path_that_is_no_file_is_a_problem(tmp_path: Path) -> None:
    """Missing, a folder, a name no file system has."""
    for path in (str(tmp_path / "none.csv"), str(tmp_path), "a\0b.csv", "n" * 5000 + ".csv"):
        says("CT2001", lambda path=path: read_table(path))


@pytest.mark.parametrize(
    "rows",
    [
        None, "text", 7, [1, 2], [{"a": 1}, {"a": "x"}], [{"a": 10**30}], [{"a": {"b": 1}}, {"a": [1]}], [{"a": "\ud800"}],
        [{1: 2}], [{"a": object()}],
    ],
    ids=lambda one: repr(one)[:20],
)  # fmt: skip
def test_rows_that_are_no_table_are_a_problem(rows: Any) -> None:
    """Before a request is made."""
    says("CT2001", lambda: as_table(rows))
    says("CT2001", lambda: list(send_calls("visit", rows, None)))


@pytest.mark.parametrize("rows", [None, "text", {"a": object()}, [{"a": {1, 2}}]], ids=lambda one: repr(one)[:20])
def test_rows_json_cannot_say_are_a_problem(rows: Any) -> None:
    """Of a prediction."""
    says("CT2001", lambda: predict_call("visits", rows))


def test_a_name_stays_one_segment_of_the_path() -> None:
    """Whatever is in it, another path is never asked."""
    (call,) = send_calls("../../x?y#z", [{"a": 1}], None)
    assert call.path == "/v1/datasets/..%2F..%2Fx%3Fy%23z/records"
    assert predict_call("a/b", {"a": 1}).path == "/v1/models/a%2Fb/predict"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"at": ["soon", "later"]}, "CT2002"),
        ({"n": ["a", "b"]}, "CT2002"),
        ({"n": [float("inf"), 1.0]}, "CT2002"),
        ({"n": [1.5, 1.0]}, "CT2002"),
        ({"n": pa.array([2**64 - 1, 1], pa.uint64())}, "CT2002"),
        ({"word": [{"a": 1}, None]}, "CT2002"),
        ({"word": [b"\xff", b"a"]}, "CT2002"),
        ({"back": ["maybe", "no"]}, "CT2002"),
        ({"observed_at": ["soon", "later"]}, "CT2002"),
        ({"at": None}, "CT2001"),
        ({"back": None}, "CT2003"),
    ],
    ids=str,
)
def test_a_table_that_does_not_fit_cannot_be_replayed(change: dict[str, Any], code: str) -> None:
    """The column is named; None: the table has it not."""
    table = pa.table({name: values for name, values in {**GOOD, **change}.items() if values is not None})
    assert next(iter(change)) in says(code, lambda: rows_of(table, VISIT, timedelta(0))).cause or code == "CT2003"


@pytest.mark.parametrize("far", [2**63 - 1, -(2**63) + 1, 253_402_300_800_000_000])
def test_a_time_nobody_has_is_a_bad_row(far: int) -> None:
    """As the services see it: dropped and counted; a label observed then is simply never known."""
    rows = rows_of(pa.table({**GOOD, "at": pa.array([far, 2], MICROS)}), VISIT, timedelta(0))
    assert (rows.dropped, rows.times.tolist()) == (1, [2])
    rows_of(pa.table({**GOOD, "observed_at": pa.array([far, 2], MICROS)}), VISIT, timedelta(0))
