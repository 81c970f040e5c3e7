"""A record class's Arrow side: its types, its features, its target; columns all the way, pandas only for the model."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ctloop.derived import MISSING_TIME, OnArrays, carry_out, parse
from ctloop.events.manifest import DerivedSpec, FieldSpec, RecordSpec
from ctloop.problems import Problem

pc: Any = pyarrow.compute  # its functions are made at import and have no types

TIME = pa.timestamp("us", "UTC")
TYPES = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(), "time": TIME}
NO_CLASSES: tuple[str, ...] = ()


def arrow_schema(spec: RecordSpec, *, label: bool = True) -> pa.Schema:
    """Id, time, fields in their order, then the label."""
    fields = (*spec.fields, spec.label) if label and spec.label else spec.fields
    return pa.schema([pa.field(one.name, TYPES[one.kind]) for one in fields])


def conform(table: pa.Table, spec: RecordSpec) -> pa.Table:
    """The record's columns that the table has, cast to the record's types; others are dropped.

    Raises:
        Problem: CT2002, a column cannot be cast.
    """
    columns: dict[str, Any] = {}
    for field in arrow_schema(spec):
        if field.name not in table.column_names:
            continue
        try:
            columns[field.name] = cast_column(table.column(field.name), field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise Problem("CT2002", f"{field.name}: {error}"[:500]) from error
    return pa.table(columns) if columns else table.select([])


def cast_column(column: Any, type: pa.DataType) -> Any:
    """A column in another type; what dictionaries hide is decoded, a time without zone is UTC.

    Raises:
        pa.ArrowInvalid: a value does not fit.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if type == TIME and pa.types.is_timestamp(column.type) and column.type.tz is None:
        return pc.assume_timezone(column.cast(pa.timestamp("us"), safe=False), "UTC")
    if pa.types.is_boolean(type) and pa.types.is_floating(column.type):
        column = column.cast(pa.int64())
    return column.cast(type, safe=type != TIME)


def features(table: pa.Table, spec: RecordSpec) -> pa.Table:
    """The columns of X in order, derived ones computed; a column the table lacks is null. Numbers are float32 values."""
    columns: dict[str, Any] = {}
    for one in spec.inputs:
        if isinstance(one, DerivedSpec):
            columns[one.name] = pa.array(derived_column(table, spec, one), from_pandas=True)
        else:
            columns[one.name] = _feature(table, one)
    return pa.table(columns)


def _feature(table: pa.Table, field: FieldSpec) -> Any:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, pa.string() if field.kind == "string" else pa.float64())
    column = table.column(field.name)
    if field.kind == "string":
        return cast_column(column, pa.string())
    if field.kind == "boolean":
        return cast_column(column, pa.bool_()).cast(pa.int64())
    return pa.array(numbers(column), from_pandas=True)


def numbers(column: Any) -> NDArray[np.float64]:
    """Values as float64 rounded through float32 (what serving sees); null is NaN."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float64).astype(np.float32).astype(np.float64)


def times(column: Any) -> NDArray[np.int64]:
    """Microseconds since the epoch, UTC; null is MISSING_TIME."""
    return pc.fill_null(cast_column(column, TIME).cast(pa.int64()), MISSING_TIME).to_numpy(zero_copy_only=False)


def derived_column(table: pa.Table, spec: RecordSpec, one: DerivedSpec) -> NDArray[np.float64]:
    """A derived column, float64 from float32 values; missing is NaN."""
    expression = parse(one.expression, {field.name: field.kind for field in spec.fields})
    given: dict[str, Any] = {}
    for name in expression.numbers:
        given[name] = numbers(table.column(name)) if name in table.column_names else np.full(table.num_rows, np.nan)
    for name in expression.times:
        absent = np.full(table.num_rows, MISSING_TIME)
        given[name] = times(table.column(name)) if name in table.column_names else absent
    value = np.broadcast_to(np.asarray(carry_out(expression, OnArrays(given)), np.float64), (table.num_rows,))
    return value.astype(np.float32).astype(np.float64)


def to_frame(table: pa.Table, spec: RecordSpec) -> Any:
    """X as the fit function sees it: strings as objects, missing ones empty (as serving's tensors have them), Literals
    as categoricals, whole numbers that may not be missing as int64, all others float64 with NaN."""
    import pandas as pd

    X = features(table, spec)
    frame: dict[str, Any] = {}
    for one in spec.inputs:
        column = X.column(one.name)
        if one.kind == "string" and isinstance(one, FieldSpec):
            values = np.array(pc.fill_null(column, "").to_pylist(), dtype=object)
            known = levels(one)
            frame[one.name] = pd.Categorical(values, categories=known) if known else pd.Series(values, dtype=object)
            continue
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        whole = one.kind in ("integer", "boolean") and not (isinstance(one, FieldSpec) and one.nullable)
        frame[one.name] = values.astype(np.int64) if whole and not np.isnan(values).any() else values
    return pd.DataFrame(frame)


def levels(field: FieldSpec) -> list[str] | None:
    """The levels of a Literal column in X, the empty word for missing last; None: any word."""
    return [str(one) for one in field.allowed] + [""] * field.nullable if field.allowed else None


def classes(table: pa.Table, spec: RecordSpec) -> tuple[str, ...]:
    """The label's classes in the order of their index; none for regression."""
    label = spec.label
    if label is None or (label.kind in ("integer", "number") and not label.allowed):
        return NO_CLASSES
    if label.kind == "boolean":
        return ("false", "true")
    if label.allowed:
        return tuple(str(one) for one in label.allowed)
    return tuple(sorted(str(one) for one in pc.unique(table.column(label.name)).to_pylist() if one is not None))


def target(table: pa.Table, spec: RecordSpec, classes: Sequence[str]) -> NDArray[Any]:
    """y: the index into classes (int64), or the value (float64). Every row must be labelled.

    Raises:
        Problem: CT2003, a label that is none of the classes, or missing.
    """
    assert spec.label is not None, "a model without label is never trained"
    column = table.column(spec.label.name)
    if not classes:
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    words = label_words(column)
    index = pc.index_in(words, value_set=pa.array(list(classes), pa.string()))
    if index.null_count:
        wrong = words.filter(pc.is_null(index)).slice(0, 1).to_pylist()
        raise Problem("CT2003", f"{spec.label.name}: {wrong[0]!r} is none of {', '.join(classes[:10])}")
    return index.to_numpy(zero_copy_only=False).astype(np.int64)


def label_words(column: Any) -> Any:
    """Labels as the words classes are named by."""
    if pa.types.is_boolean(column.type):
        return pc.if_else(column, "true", "false")
    return column.cast(pa.string())


def content_ids(table: pa.Table, spec: RecordSpec) -> Any:
    """Ids of rows that bring none: sha256 of the row's content, 32 hex digits."""
    held = [field.name for field in arrow_schema(spec, label=False) if field.name in table.column_names]
    rows = table.select([name for name in held if name != spec.id]).to_pylist()
    return pa.array([hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest()[:32] for row in rows], pa.string())
