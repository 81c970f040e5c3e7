"""One table of many arrivals: the columns the record class knows, types brought together without losing a value.

Columns that arrivals send in types that do not go together are staged as text; the audit reads the text as the record's
type, row by row. What cannot be read at all is staged as a row of its raw bytes and the reason.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from ctloop_ingestion.domain.bodies import ROWS_PER_ARRIVAL, read_arrow

SEQUENCE, ARRIVED, RAW, PROBLEM = "_sequence", "_arrived", "_raw", "_problem"
INT64 = 1 << 63


@dataclass(frozen=True)
class Part:
    """What one arrival brings: its good rows, their places in the body, and what could not be read."""

    number: int
    arrived: datetime
    rows: pa.Table
    places: np.ndarray[Any, Any]
    broken: tuple[tuple[int, bytes, str], ...] = ()
    """Place, raw bytes, reason."""


def arrow_part(number: int, arrived: datetime, table: pa.Table) -> Part:
    """Rows of an Arrow or Parquet table."""
    return Part(number, arrived, table, np.arange(table.num_rows))


def broken_part(number: int, arrived: datetime, raw: bytes, reason: str) -> Part:
    """An arrival of which nothing could be read."""
    return Part(number, arrived, pa.table({}), np.arange(0), ((0, raw, reason),))


def ndjson_part(number: int, arrived: datetime, body: bytes, wanted: frozenset[str]) -> Part:
    """Rows of NDJSON; a broken line takes no other line with it. Unknown names are left out."""
    good: list[dict[str, Any]] = []
    places: list[int] = []
    broken: list[tuple[int, bytes, str]] = []
    for place, line in enumerate(body.split(b"\n")):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            broken.append((place, line, f"not JSON: {error.msg}"))
            continue
        if not isinstance(row, dict):
            broken.append((place, line, "not a JSON object"))
            continue
        good.append(row)
        places.append(place)
    names = [name for name in dict.fromkeys(name for row in good for name in row) if name in wanted]
    columns = {name: json_column([row.get(name) for row in good]) for name in names}
    rows = pa.table(columns) if columns else pa.table({}).slice(0, 0)
    if good and not columns:
        broken += [
            (place, orjson.dumps(row), "no column of the record class") for place, row in zip(places, good, strict=True)
        ]
        places = []
    return Part(number, arrived, rows, np.array(places, np.int64), tuple(broken))


def json_column(values: Sequence[Any]) -> pa.Array:
    """JSON values as one Arrow column; values that do not go together, and nested ones, as their JSON text.

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
            name: as_type(part.rows.column(name), type) if name in part.rows.column_names else pa.nulls(rows, type)
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
    """The type that holds every value of all; text where there is none.

    >>> common_type([pa.int32(), pa.float32()]), common_type([pa.int64(), pa.string()])
    (DataType(double), DataType(string))
    """
    plain = [_plain(one) for one in types]
    kinds = set(one for one in plain if not pa.types.is_null(one))
    if not kinds:
        return pa.string()
    if len(kinds) == 1:
        return kinds.pop()
    if kinds == {pa.int64(), pa.float64()}:
        return pa.float64()
    return pa.string()


def _plain(type: Any) -> Any:
    """One of int64, float64, bool, string, timestamp[us, UTC], null; lists are left as they are."""
    kind = pa.types
    if kind.is_dictionary(type):
        return _plain(type.value_type)
    if kind.is_integer(type):
        return pa.string() if type == pa.uint64() else pa.int64()
    if kind.is_floating(type) or kind.is_decimal(type):
        return pa.float64()
    if kind.is_timestamp(type) or kind.is_date(type):
        return pa.timestamp("us", "UTC")
    if kind.is_boolean(type) or kind.is_null(type) or kind.is_list(type):
        return type
    return pa.string()


def as_type(column: Any, type: Any) -> Any:
    """The column in a type of ``common_type``; what has no such form is text, what has no text is null."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(type) and not pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(type) and column.type.tz is None:
        return column.cast(pa.timestamp("us"), safe=False).cast(type)  # without a zone it is UTC
    try:
        return column.cast(type, safe=False)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return pa.array([None if one is None else str(one) for one in column.to_pylist()], pa.string())


def predictions_part(number: int, arrived: datetime, body: bytes) -> Part:
    """Predictions come as Arrow only."""
    return arrow_part(number, arrived, read_arrow(body))
