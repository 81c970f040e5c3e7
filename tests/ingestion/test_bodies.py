"""Bodies of arrivals, good and bad."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from ctloop.events.errors import SchemaMismatch, TooLarge, Truncated, UndecodableEvent, UnsupportedFormat
from ctloop_ingestion.domain import bodies
from ctloop_ingestion.domain.growth import bounded
from ctloop_ingestion.domain.staging import PROBLEM, RAW, SEQUENCE, arrow_part, broken_part, ndjson_parts, stage

WHEN = datetime(2013, 1, 1, tzinfo=UTC)
TABLE = pa.table({"id": ["a", "b", "c"], "x": [1.0, None, 3.0]})
WANTED = frozenset(["id", "x"])


@pytest.mark.parametrize(
    ("format", "body", "error"),
    [
        ("arrow", b"", Truncated),
        ("arrow", b"not arrow at all", Truncated),
        ("arrow", bodies.write_arrow(TABLE)[:-20], Truncated),
        ("arrow", bodies.write_arrow(TABLE)[:-8], Truncated),
        ("arrow", bodies.write_arrow(pa.table([pa.array([1]), pa.array([2])], names=["x", "x"])), SchemaMismatch),
        ("reference", b"[]", UndecodableEvent),
        ("reference", b'{"uri": "s3://b/k", "sha256": "no", "bytes": 1}', UndecodableEvent),
        (
            "reference",
            b'{"uri": "s3://b/k", "sha256": "%s", "bytes": 1, "format": "csv"}' % (b"0" * 64),
            UnsupportedFormat,
        ),
        (
            "reference",
            b'{"uri": "s3://b/k", "sha256": "%s", "bytes": 999999999, "format": "arrow"}' % (b"0" * 64),
            TooLarge,
        ),
    ],
)
def test_what_can_never_be_read_is_refused(format: str, body: bytes, error: type[Exception]) -> None:
    """The name of the refusal decides where it is written."""
    with pytest.raises(error):
        bodies.count_rows(format, body)


@pytest.mark.parametrize("type", ["text/csv", "", "application/octet-stream"])
def test_other_content_types_are_refused(type: str) -> None:
    """We say which ones are read."""
    with pytest.raises(UnsupportedFormat, match="ndjson"):
        bodies.format_of(type)


def test_large_bodies_are_split_by_rows_without_loss() -> None:
    """Parts are at most as large as asked, and together they are the whole."""
    table = pa.table({"id": [f"{one:08d}" for one in range(5000)], "x": list(range(5000))})
    parts = [bodies.read_arrow(part) for part in bodies.split_arrow(table, 20_000)]
    assert len(parts) > 3
    assert pa.concat_tables(parts).combine_chunks().equals(table.combine_chunks())
    lines = b"".join(b'{"id": "%d"}\n' % one for one in range(5000))
    split = list(bodies.split_ndjson(lines, 1000))
    assert b"".join(split) == lines
    assert all(part.endswith(b"\n") and len(part) <= 1000 for part in split)
    assert sum(bodies.rows_in("arrow", part) for part in bodies.split_arrow(table, 20_000)) == 5000
    assert sum(bodies.rows_in("ndjson", part) for part in split) == 5000


def test_a_row_larger_than_an_event_is_refused() -> None:
    """It would have to be cut, and nothing is ever cut."""
    with pytest.raises(TooLarge):
        list(bodies.split_ndjson(b'{"id": "' + b"a" * 100 + b'"}', 50))
    with pytest.raises(TooLarge):
        list(bodies.split_arrow(pa.table({"id": ["a" * 5000]}), 1000))


def test_a_broken_line_takes_no_other_line_with_it() -> None:
    """Good rows go on with their places; broken ones keep their bytes and the reason."""
    body = b'{"id": "a"}\n{"id": \n\n[1]\n{"id": "b", "x": NaN}\n{"id": "c", "x": 2}'
    table = stage(ndjson_parts(7, WHEN, body, WANTED), WANTED)
    good = table.filter(table.column(PROBLEM).is_null())
    assert good.select(["id", "x"]).to_pylist() == [{"id": "a", "x": None}, {"id": "c", "x": 2}]
    assert [one & 0xFFFFFF for one in good.column(SEQUENCE).to_pylist()] == [0, 5]
    assert good.column(SEQUENCE)[0].as_py() >> 24 == 7
    bad = table.filter(table.column(RAW).is_valid())
    assert bad.column(RAW).to_pylist() == [b'{"id": ', b"[1]", b'{"id": "b", "x": NaN}']


@pytest.mark.parametrize(
    ("tables", "type", "values"),
    [
        ([pa.table({"x": [1]}), pa.table({"x": [2.5]})], pa.float64(), [1.0, 2.5]),
        ([pa.table({"x": pa.array([1], pa.int8())}), pa.table({"x": [300]})], pa.int64(), [1, 300]),
        ([pa.table({"x": [1]}), pa.table({"x": ["a"]})], pa.string(), ["1", "a"]),
        ([pa.table({"x": pa.nulls(1)}), pa.table({"x": [True]})], pa.bool_(), [None, True]),
        ([pa.table({"x": pa.array(["a"]).dictionary_encode()}), pa.table({"x": ["b"]})], pa.string(), ["a", "b"]),
        ([pa.table({"y": [1]}), pa.table({"x": [1]})], pa.int64(), [None, 1]),
    ],
)
def test_types_are_brought_together_without_losing_a_value(tables: list[Any], type: Any, values: list[Any]) -> None:
    """Where no type holds all values they are staged as text, and the audit reads the text."""
    wanted = frozenset("xy")
    parts = [arrow_part(number, WHEN, bounded(table), wanted) for number, table in enumerate(tables, 1)]
    staged = stage(parts, wanted)
    assert staged.column("x").type == type
    assert staged.column("x").to_pylist() == values


def test_staging_is_deterministic() -> None:
    """The same arrivals give the same table, so a repeated job writes the same object."""
    parts = [arrow_part(1, WHEN, TABLE), broken_part(2, WHEN, b"raw", "why")]
    assert stage(parts, WANTED).equals(stage(parts, WANTED))
    assert stage([], WANTED).num_rows == 0
