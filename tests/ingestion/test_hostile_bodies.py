"""Bodies made to do harm: they grow, lie, nest or overflow. Each is refused by name or staged as a row with its reason."""

import io
import struct
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import BOMBS, claims, stream

from ctloop.events.errors import RejectedEvent, SchemaMismatch, TooLarge, Truncated
from ctloop_ingestion.domain import bodies, growth
from ctloop_ingestion.domain.staging import FAR, PROBLEM, RAW, SEQUENCE, arrow_part, ndjson_parts, stage
from ctloop_ingestion.jobs import parquet, times

WHEN = datetime(2013, 1, 1, tzinfo=UTC)
WANTED = frozenset(["id", "at", "x"])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that a test passes quickly."""
    monkeypatch.setattr(growth, "GROWN_BYTES", 48 << 20)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", BOMBS)
def test_what_would_grow_is_refused_before_it_has(name: str) -> None:
    """The arrival is too large, said by what it would become; memory never holds it."""
    body = BOMBS[name]()
    format = "ndjson" if name == "lines of nothing" else "arrow"
    held = pa.total_allocated_bytes()
    with pytest.raises(TooLarge):
        bodies.count_rows(format, body)
    assert pa.total_allocated_bytes() - held < len(body) + (32 << 20)


@pytest.mark.usefixtures("small")
def test_a_parquet_file_that_would_grow_is_refused() -> None:
    """By rows of one word, and by pages that were compressed well."""
    many = io.BytesIO()
    pq.write_table(pa.table({"id": ["a" * 100_000] * 1_000}), many, compression="zstd")
    with pytest.raises(TooLarge):
        bodies.read_parquet(many.getvalue())
    wide = io.BytesIO()
    pq.write_table(
        pa.table({"x": np.zeros((growth.GROWN_BYTES >> 3) + 1)}), wide, compression="zstd", use_dictionary=False
    )
    with pytest.raises(TooLarge):
        bodies.read_parquet(wide.getvalue())


def test_honest_compression_is_read() -> None:
    """Compressed buffers, dictionaries, runs and views of a sane size are written out, as their plain values."""
    words = pa.array(["b", "a", "b", None])
    table = pa.table(
        {
            "id": words.dictionary_encode(),
            "x": pa.RunEndEncodedArray.from_arrays(pa.array([3, 4], pa.int32()), [1.5, 2.5]),
            "v": words.cast(pa.string_view()),
            "flag": pa.array([True, False, None, True]).dictionary_encode(),
        }
    )
    for codec in (None, "zstd", "lz4"):
        body = stream(table, codec)
        read = bodies.read_arrow(body)
        assert read.column("id").to_pylist() == read.column("v").to_pylist() == ["b", "a", "b", None]
        assert read.column("x").to_pylist() == [1.5, 1.5, 1.5, 2.5]
        assert growth.grown(body) >= 4 * 8


def lies() -> dict[str, bytes]:
    """Streams whose parts contradict one another."""
    whole = stream(pa.table({"id": ["a", "b", "c"]}))
    offsets = bytearray(whole)
    place = whole.index(struct.pack("<4i", 0, 1, 2, 3))
    offsets[place : place + 16] = struct.pack("<4i", 0, 1 << 30, -5, 3)
    index = bytearray(
        stream(pa.table({"id": pa.DictionaryArray.from_arrays(pa.array([7, 0, 1]), ["a", "b"] + ["c"] * 6)}))
    )
    place = bytes(index).rindex(struct.pack("<3q", 7, 0, 1))
    index[place : place + 8] = struct.pack("<q", 99)
    name = stream(pa.table({"idid": [1]})).replace(b"idid", b"\xff\xfe\xff\xfe")
    text = bytearray(whole)
    text[bytes(text).rindex(b"abc")] = 0xFF
    return {
        "offsets": bytes(offsets), "dictionary index": bytes(index), "a name that is no UTF-8": name,
        "text that is no UTF-8": bytes(text), "a buffer before it begins": claims(-7), "too short a claim": claims(8),
        "metadata that leads out": whole[:4] + b"\xff" * 64 + whole[68:],
    }  # fmt: skip


@pytest.mark.parametrize("name", lies())
def test_a_stream_that_contradicts_itself_is_refused(name: str) -> None:
    """Nothing it points at is followed."""
    with pytest.raises((Truncated, SchemaMismatch)):
        bodies.count_rows("arrow", lies()[name])


def test_flipped_bytes_never_do_more_than_be_refused() -> None:
    """Any damage is a named refusal, or another table that can be staged."""
    dice = np.random.default_rng(7)
    good = [stream(pa.table({"id": ["a", "b"], "x": [1.5, None], "at": pa.array([1, 2], pa.timestamp("ms"))}), one)
            for one in (None, "zstd", "lz4")]  # fmt: skip
    for number in range(1500):
        body = bytearray(good[number % 3])
        for place in dice.integers(0, len(body), 1 + number % 4):
            body[place] = dice.integers(0, 256)
        try:
            parquet(stage([arrow_part(1, WHEN, bodies.read_arrow(bytes(body)), WANTED)], WANTED))
        except RejectedEvent:
            continue


COLUMNS: dict[str, Any] = {
    "us": pa.array([2**63 - 1, -(2**63)], pa.timestamp("us", "UTC")),
    "s": pa.array([2**62, -(2**62)], pa.timestamp("s")),
    "ms with a zone nobody knows": pa.array([2**62, 1], pa.timestamp("ms", "Nowhere/Zone")),
    "ns": pa.array([2**63 - 1, 1], pa.timestamp("ns")),
    "days": pa.array([2**31 - 1, -(2**31)], pa.date32()),
    "decimal": pa.array([10**70, 1], pa.decimal256(76, 0)),
    "half": pa.array(np.array([1.5, np.inf], np.float16)),
    "uint64": pa.array([2**64 - 1, 0], pa.uint64()),
    "text": pa.array(["a", "b"], pa.large_string()),
    "null": pa.nulls(2),
}


@pytest.mark.parametrize("other", COLUMNS)
@pytest.mark.parametrize("one", COLUMNS)
def test_any_types_go_together(one: str, other: str) -> None:
    """Whatever two arrivals of one batch bring in one column, the batch is staged: no row is lost, no cast fails."""
    tables = [pa.table({"id": ["a", "b"], "at": COLUMNS[name]}) for name in (one, other)]
    parts = [arrow_part(n, WHEN, bodies.read_arrow(stream(table)), WANTED) for n, table in enumerate(tables, 1)]
    staged = stage(parts, WANTED)
    assert staged.num_rows == 4 and len(parquet(staged)) > 0
    times(staged, "at")


def test_a_time_that_overflows_is_none() -> None:
    """It becomes the year 10000, which the audit refuses: a cast would wrap round to a day of our time."""
    for name in ("us", "s", "days"):
        table = pa.table({"id": ["a", "b"], "at": COLUMNS[name]})
        staged = stage([arrow_part(1, WHEN, table, WANTED)], WANTED)
        assert staged.column("at").cast(pa.int64()).to_pylist() == [FAR, FAR]
        assert times(staged, "at") == (None, None)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([{"a": 1}]),
        pa.array([[1]]),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.array([b"\xff"]),
        pa.array([1], pa.duration("s")),
        pa.array([1], pa.time64("us")),
        pa.array([[1]], pa.list_view(pa.int64())),
        pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16], pa.binary(16))),
    ],
    ids=lambda one: str(one.type)[:12],
)
def test_types_no_record_class_has_are_a_mismatch(values: Any) -> None:
    """In a column of the record class; in any other column they are left out with it."""
    table = bodies.read_arrow(stream(pa.table({"id": ["a"], "x": values})))
    with pytest.raises(SchemaMismatch, match="'x' is of type"):
        arrow_part(1, WHEN, table, WANTED)
    assert arrow_part(1, WHEN, table, frozenset(["id"])).rows.column_names == ["id"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": ' + b"[" * 300 + b"]" * 300 + b"}", "nested too deep"),
        (b'{"id": ' + b"[" * 100_000 + b"}", "not JSON"),
        (b'{"id": "\\ud800"}', "not JSON"),
        (b'{"id": "\xff"}', "not JSON"),
        (b'\xef\xbb\xbf{"id": "a"}', "not JSON"),
        (b'{"id": "a", "x": 1e400}', "not JSON"),
        (b'{"id": "a", "x": NaN}', "not JSON"),
        (b'{"id": "a", "x": -Infinity}', "not JSON"),
        (b'{"id": "a"', "not JSON"),
        (b'["a"]', "not a JSON object"),
        (b'{"unknown": 1}', "no column of the record class"),
        (b"\0", "not JSON"),
    ],
)
def test_a_bad_line_is_kept_as_it_came(line: bytes, reason: str) -> None:
    """With its bytes, its place and why; the lines around it go on."""
    body = b"\n".join([b'{"id": "before"}', line, b'{"id": "after"}\r'])
    staged = stage(ndjson_parts(1, WHEN, body, WANTED), WANTED)
    assert [one for one in staged.column("id").to_pylist() if one] == ["before", "after"]
    bad = staged.filter(staged.column(RAW).is_valid())
    assert bad.column(RAW).to_pylist() == [line]
    assert reason in bad.column(PROBLEM)[0].as_py()
    assert bad.column(SEQUENCE)[0].as_py() & 0xFFFFFF == 1


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (b"18446744073709551615", "18446744073709551615"),
        (b"123456789012345678901234567890", 1.2345678901234568e29),
        (b'"a", "x": "b"', "b"),
        (b'{"a": [1]}', '{"a":[1]}'),
        (b"-0.0", -0.0),
        (b"1e308", 1e308),
    ],
)
def test_a_strange_value_is_staged_for_the_audit(written: bytes, value: Any) -> None:
    """Integers beyond int64 as text, a name given twice by its last value, nested values by their JSON."""
    body = b'{"id": "a", "x": %s}' % written
    assert stage(ndjson_parts(1, WHEN, body, WANTED), WANTED).column("x").to_pylist() == [value]


def test_large_ndjson_is_read_in_pieces() -> None:
    """Places go on from piece to piece, types are brought together, and a line longer than a piece is too large."""
    lines = [b'{"id": "%d", "x": %s}' % (one, b"1" if one < 60_000 else b'"late"') for one in range(120_000)]
    body = b"\n".join(lines)
    parts = list(ndjson_parts(3, WHEN, body, WANTED))
    staged = stage(parts, WANTED)
    assert len(parts) > 0 and staged.num_rows == 120_000
    assert staged.column(SEQUENCE).to_pylist() == [(3 << 24) + one for one in range(120_000)]
    with pytest.raises(TooLarge):
        list(ndjson_parts(1, WHEN, b'{"id": "' + b"a" * (5 << 20) + b'"}\n{}', WANTED))
