"""One table of many arrivals: the columns the record class knows, types brought together without losing a value.

Columns that arrivals send in types that do not go together are staged as text; the audit reads the text as the record's
type, row by row. What cannot be read at all is staged as a row of its raw bytes and the reason. Nothing an arrival
brings may fail here: the arrivals of others are in the same batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute

from ctloop.events.errors import SchemaMismatch
from ctloop.events.staged import ARRIVED, FAR, FIRST, PROBLEM, RAW, ROWS_PER_ARRIVAL, SEQUENCE
from ctloop_ingestion.domain.bodies import split_ndjson

pc: Any = pyarrow.compute  # its functions are made at import and have no types

PIECE_BYTES = 4 << 20
"""NDJSON is read in pieces of at most this size: a Python object takes ten times its text."""
INT64 = 1 << 63
PROBABILITIES = "probabilities"
"""Of predictions: the only column that is a list."""
MICROS = pa.timestamp("us", "UTC")
TICKS = {"s": 1_000_000, "ms": 1_000, "us": 1}


@dataclass(frozen=True)
class Part:
    """What one arrival brings: its good rows, their places in the body, and what could not be read."""

    number: int
    arrived: datetime
    rows: pa.Table
    places: np.ndarray[Any, Any]
    broken: tuple[tuple[int, bytes, str], ...] = ()
    """Place, raw bytes, reason."""


def arrow_part(number: int, arrived: datetime, table: pa.Table, wanted: frozenset[str] | None = None) -> Part:
    """Rows of an Arrow or Parquet table.

    Raises:
        SchemaMismatch: no wanted column, or one of a type that no column of a record class has.
    """
    names = [name for name in table.column_names if wanted is None or name in wanted]
    if not names:
        raise SchemaMismatch("no column of the record class")
    rows = pa.table({name: _read(name, table.column(name), wanted) for name in names})
    return Part(number, arrived, rows, np.arange(table.num_rows))


def _read(name: str, column: Any, wanted: frozenset[str] | None) -> Any:
    return probabilities(column) if wanted is None and name == PROBABILITIES else plain(name, column)


def broken_part(number: int, arrived: datetime, raw: bytes, reason: str) -> Part:
    """An arrival of which nothing could be read."""
    return Part(number, arrived, pa.table({}), np.arange(0), ((0, raw, reason),))


def ndjson_parts(number: int, arrived: datetime, body: bytes, wanted: frozenset[str]) -> Iterable[Part]:
    """Rows of NDJSON; a broken line takes no other line with it. Unknown names are left out.

    Raises:
        TooLarge: a line is longer than a piece.
    """
    place = 0
    for piece in split_ndjson(body, PIECE_BYTES):
        lines = piece.split(b"\n")
        yield _lines(number, arrived, lines, place, wanted)
        place += len(lines) - 1


def _lines(number: int, arrived: datetime, lines: Sequence[bytes], first: int, wanted: frozenset[str]) -> Part:
    good: list[dict[str, Any]] = []
    places: list[int] = []
    broken: list[tuple[int, bytes, str]] = []
    for place, line in enumerate(lines, first):
        if not line.strip():
            continue
        row = json_row(line, wanted)
        if isinstance(row, str):
            broken.append((place, line, row))
        else:
            good.append(row)
            places.append(place)
    names = dict.fromkeys(name for row in good for name in row)
    columns = {name: json_column([row.get(name) for row in good]) for name in names}
    return Part(number, arrived, pa.table(columns), np.array(places, np.int64), tuple(broken))


def json_row(line: bytes, wanted: frozenset[str]) -> dict[str, Any] | str:
    """The wanted values of a line, nested ones as their JSON text; or why there are none.

    >>> json_row(b'{"id": [1], "other": 2}', frozenset(["id"])), json_row(b"[1]", frozenset(["id"]))
    ({'id': '[1]'}, 'not a JSON object')
    """
    try:
        row = orjson.loads(line)
        if not isinstance(row, dict):
            return "not a JSON object"
        named: dict[str, Any] = {
            name: orjson.dumps(value).decode() if isinstance(value, dict | list) else value
            for name, value in row.items()
            if name in wanted
        }
    except orjson.JSONDecodeError as error:
        return f"not JSON: {error.msg}"
    except orjson.JSONEncodeError:  # it reads deeper than it writes
        return "not JSON: nested too deep"
    return named or "no column of the record class"


def json_column(values: Sequence[Any]) -> pa.Array:
    """JSON values as one Arrow column; values that do not go together as their JSON text.

    >>> json_column([1, 2.5, None]).type, json_column([1, "a"]).to_pylist()
    (DataType(double), ['1', 'a'])
    """
    kinds = {type(value) for value in values if value is not None}
    exact = int not in kinds or all(-INT64 <= one < INT64 for one in values if type(one) is int)
    if kinds <= {str}:
        return pa.array(values, pa.string() if kinds else pa.null())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and exact:
        return pa.array(values, pa.int64())
    if kinds <= {int, float} and all(abs(one) <= 1 << 53 for one in values if type(one) is int):
        return pa.array(values, pa.float64())
    return pa.array([None if one is None else _text(one) for one in values], pa.string())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def stage(parts: Iterable[Part], wanted: frozenset[str] | None) -> pa.Table:
    """All parts as one table, in order: the wanted columns (None: all), ``_sequence``, ``_arrived``, ``_raw``, ``_problem``."""
    every = list(parts)
    names = dict.fromkeys(name for part in every for name in part.rows.column_names if wanted is None or name in wanted)
    targets = {name: common_type([part.rows.column(name).type for part in every if name in part.rows.column_names])
               for name in names}  # fmt: skip
    pieces = [piece for part in every for piece in _pieces(part, targets)]
    schema = pa.schema([*((name, type) for name, type in targets.items()), *OWN])
    return pa.concat_tables([piece.cast(schema) for piece in pieces]) if pieces else schema.empty_table()


OWN = [(SEQUENCE, pa.int64()), (ARRIVED, pa.timestamp("us", "UTC")), (RAW, pa.binary()), (PROBLEM, pa.string())]


def _pieces(part: Part, targets: dict[str, pa.DataType]) -> Iterable[pa.Table]:
    rows = len(part.places)
    if rows:
        columns = {
            name: part.rows.column(name).cast(type, safe=False)
            if name in part.rows.column_names
            else pa.nulls(rows, type)
            for name, type in targets.items()
        }
        yield _with_own(columns, part, part.places, [None] * rows, [None] * rows)
    if part.broken:
        columns = {name: pa.nulls(len(part.broken), type) for name, type in targets.items()}
        places, raw, reasons = zip(*part.broken, strict=True)
        yield _with_own(columns, part, np.array(places, np.int64), list(raw), list(reasons))


def _with_own(
    columns: dict[str, Any], part: Part, places: Any, raw: Sequence[bytes | None], reasons: Sequence[str | None]
) -> pa.Table:
    rows = len(places)
    sequence = part.number * ROWS_PER_ARRIVAL + places
    own = {
        SEQUENCE: pa.array(sequence, pa.int64()),
        ARRIVED: pa.repeat(pa.scalar(part.arrived, pa.timestamp("us", "UTC")), rows),
        RAW: pa.array(raw, pa.binary()),
        PROBLEM: pa.array(reasons, pa.string()),
    }
    return pa.table({**columns, **own})


def common_type(types: Sequence[Any]) -> Any:
    """The type that holds every value of all these plain ones; text where there is none.

    >>> common_type([pa.int64(), pa.float64()]), common_type([pa.int64(), pa.string()])
    (DataType(double), DataType(string))
    """
    kinds = set(one for one in types if not pa.types.is_null(one))
    if not kinds:
        return pa.string()
    if len(kinds) == 1:
        return kinds.pop()
    if kinds == {pa.int64(), pa.float64()}:
        return pa.float64()
    return pa.string()


def probabilities(column: Any) -> Any:
    """A list of float64 per row, or null.

    Raises:
        SchemaMismatch
    """
    kind, type = pa.types, column.type
    if kind.is_null(type) or (kind.is_list(type) and kind.is_floating(type.value_type)):
        return column.cast(pa.list_(pa.float64()))
    raise SchemaMismatch(f"column {PROBABILITIES!r} is of type {str(type)[:100]}: send lists of numbers")


def plain(name: str, column: Any) -> Any:
    """A column as int64, float64, bool, string, timestamp[us, UTC] or null, whatever its values. A time beyond the
    years 1 to 9999 becomes the year 10000, which the audit refuses.

    Raises:
        SchemaMismatch: no column of a record class has such values.
    """
    kind, type = pa.types, column.type
    if kind.is_boolean(type) or kind.is_null(type):
        return column
    if kind.is_integer(type):
        return column.cast(pa.string() if type == pa.uint64() else pa.int64())
    if kind.is_floating(type) or kind.is_decimal(type):
        return column.cast(pa.float64(), safe=False)
    if kind.is_string(type) or kind.is_large_string(type) or kind.is_string_view(type):
        return column.cast(pa.string())
    if kind.is_timestamp(type) or kind.is_date(type):
        return _micros(column)
    raise SchemaMismatch(f"column {name[:100]!r} is of type {str(type)[:100]}: send text, numbers, booleans or times")


def _micros(column: Any) -> Any:
    """Times in microseconds; without a zone they are UTC. Computed, not cast: a cast overflows in silence or fails."""
    type = column.type
    if pa.types.is_date32(type):
        ticks, factor = column.cast(pa.int32()).cast(pa.int64()), 86_400 * TICKS["s"]
    elif pa.types.is_timestamp(type) and type.unit == "ns":
        return column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).cast(MICROS)
    else:
        ticks, factor = column.cast(pa.int64()), TICKS["ms" if pa.types.is_date64(type) else type.unit]
    sane = pc.and_(pc.greater_equal(ticks, FIRST // factor), pc.less(ticks, FAR // factor))
    return pc.if_else(sane, pc.multiply(pc.if_else(sane, ticks, 0), factor), FAR).cast(MICROS)
