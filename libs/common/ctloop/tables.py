"""A user's data as a table: a file, read the same way by init, send and replay, or what a program holds."""

import keyword
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
from pyarrow import csv, json, parquet

from ctloop.problems import Problem

pc: Any = pyarrow.compute
DELIMITERS = ",;\t|"
HEADER_BYTES = 65_536
RESERVED = ("spec",)
"""What a record class has of its own."""


def read_table(file: str | Path) -> pa.Table:
    """CSV, Parquet, Arrow or NDJSON (``-``: NDJSON on stdin); columns have Python names, empty text in a CSV is missing.

    Raises:
        Problem: CT2001, with what is wrong with the file.
    """
    try:
        table = _read(str(file))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise Problem("CT2001", f"{file}: {error}"[:400]) from error
    if broken := [one.name for one in table.schema if pa.types.is_binary(one.type)]:
        raise Problem("CT2001", f"{file}: column {broken[0]!r} is no UTF-8 text", "Save the file as UTF-8.")
    return _named(table, str(file))


def as_table(data: Any) -> pa.Table:
    """Arrow tables, batches, pandas, polars, anything with ``__arrow_c_stream__``, dicts, or a list of dicts.

    Raises:
        Problem: CT2001, it is none of these, or its values do not go together.
    """
    try:
        table = _converted(data)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise Problem(
            "CT2001", f"{type(error).__name__}: {error}"[:400], "Give each column values of one type."
        ) from error
    if table is None:
        raise Problem("CT2001", f"{type(data).__name__} is no table and no list of records")
    return table


def _converted(data: Any) -> pa.Table | None:
    if isinstance(data, pa.Table | pa.RecordBatch):
        return data if isinstance(data, pa.Table) else pa.Table.from_batches([data])
    if isinstance(data, Mapping):
        data = [data]
    if isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
        return pa.Table.from_pylist([dict(row) for row in data])
    if hasattr(data, "__arrow_c_stream__"):
        return pa.table(data)
    if type(data).__module__.startswith("pandas"):
        return pa.Table.from_pandas(data, preserve_index=False)
    return None


def python_name(column: str) -> str:
    """The name a column has in a record class: itself where it can be one.

    >>> [python_name(one) for one in ("age", "sepal length (cm)", "2nd-class", "class", "größe")]
    ['age', 'sepal_length_cm', 'c_2nd_class', 'class_', 'gr_e']
    """
    name = re.sub(r"[^A-Za-z0-9_]+", "_", column)
    name = name if name == column else name.strip("_")
    name = name if name[:1].isalpha() else f"c_{name.lstrip('_')}"
    return f"{name}_" if keyword.iskeyword(name) or name in RESERVED else name


def _read(file: str) -> pa.Table:
    kind = Path(file).suffix.lower()
    if file == "-":
        return json.read_json(pa.py_buffer(sys.stdin.buffer.read()))
    if kind in (".csv", ".tsv", ".txt"):
        return _read_csv(file)
    if kind in (".parquet", ".pq"):
        return parquet.read_table(file)
    if kind in (".ndjson", ".jsonl", ".json"):
        return json.read_json(file)
    return pa.ipc.open_file(file).read_all()


def _read_csv(file: str) -> pa.Table:
    with Path(file).open("rb") as source:
        header = source.read(HEADER_BYTES).split(b"\n", 1)[0].decode("utf-8", "replace")
    options = csv.ParseOptions(delimiter=max(DELIMITERS, key=header.count), newlines_in_values=True)
    table = csv.read_csv(file, parse_options=options)
    codes = _codes(file, table, options)
    for place, name in enumerate(table.column_names):
        column = codes.get(name, table.column(place))
        if pa.types.is_string(column.type):  # what pandas and spreadsheets write where a text is missing
            column = pc.if_else(pc.equal(column, ""), None, column)
        table = table.set_column(place, name, column)
    return table


def _codes(file: str, table: pa.Table, options: Any) -> dict[str, Any]:
    """Columns of digits that are names, not numbers: 02134 and 2134 are two postcodes."""
    once = {name for name, count in Counter(table.column_names).items() if count == 1}
    whole = [one.name for one in table.schema if pa.types.is_integer(one.type) and one.name in once]
    if not whole:
        return {}
    convert = csv.ConvertOptions(include_columns=whole, column_types=dict.fromkeys(whole, pa.string()))
    texts = csv.read_csv(file, parse_options=options, convert_options=convert)
    zeros = {name: pc.match_substring_regex(texts.column(name), r"^0\d") for name in whole}
    return {name: texts.column(name) for name in whole if pc.any(zeros[name]).as_py()}


def _named(table: pa.Table, file: str) -> pa.Table:
    names = [python_name(one) for one in table.column_names]
    if twice := [name for name, count in Counter(table.column_names).items() if count > 1]:
        raise Problem("CT2001", f"{file}: column {twice[0]!r} comes twice", "Rename one of them.")
    if again := [name for name, count in Counter(names).items() if count > 1]:
        alike = [old for old, new in zip(table.column_names, names, strict=True) if new == again[0]]
        raise Problem("CT2001", f"{file}: columns {', '.join(map(repr, alike))} have one name", "Rename one of them.")
    return table.rename_columns(names)
