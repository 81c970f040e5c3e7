"""Columns as they were sent, read as the record class says; what cannot be read is marked, never guessed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ctloop.events.manifest import ColumnKind
from ctloop.events.staged import FAR, FIRST

Mask = npt.NDArray[np.bool_]
MICROS = pa.timestamp("us", "UTC")
ARROW_TYPES: dict[str, Any] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "time": MICROS,
}
WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "time": "a time",
}
INTEGER = r"^[+-]?[0-9]{1,18}$"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?$"
ZONE = r"(Z|:[0-9]{2}(\.[0-9]+)?[+-][0-9]{2}:?[0-9]{2})$"
DAY = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"


@dataclass(frozen=True)
class Column:
    """A column in the record's type; ``bad``: values that are none of it (null in ``values``)."""

    values: Any
    bad: Mask
    missing: Mask


def read_column(raw: Any, kind: ColumnKind) -> Column:
    """Read one column. Numbers and times in text are read; a time without zone is UTC."""
    raw = raw.combine_chunks() if isinstance(raw, pa.ChunkedArray) else raw
    missing = mask(raw.is_null())
    values = _READERS[kind](raw)
    return Column(values, mask(values.is_null()) & ~missing, missing)


def mask(values: Any) -> Mask:
    """An Arrow column of booleans as numpy; null is False."""
    return np.asarray(values.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)


def compute(function: str, *arguments: Any, options: Any = None) -> Any:
    """An Arrow compute function by name."""
    import pyarrow.compute as pc  # functions are made at import; the names are not known to a type checker

    return pc.call_function(function, list(arguments), options)


def matches(values: Any, pattern: str) -> Any:
    """Which strings match a regular expression."""
    import pyarrow.compute as pc

    return compute("match_substring_regex", values, options=pc.MatchSubstringOptions(pattern))


def keep(values: Any, good: Any) -> Any:
    """Values where ``good`` is true, null elsewhere."""
    return compute("if_else", good, values, pa.scalar(None, values.type))


def _none(raw: Any, type: Any) -> Any:
    return pa.nulls(len(raw), type)


def _string(raw: Any) -> Any:
    kind = pa.types
    if kind.is_integer(raw.type):
        return raw.cast(pa.string())
    return raw.cast(pa.string()) if _is_text(raw) else _none(raw, pa.string())


def _integer(raw: Any) -> Any:
    if pa.types.is_integer(raw.type):
        return raw.cast(pa.int64())
    if pa.types.is_floating(raw.type):
        whole = compute(
            "and_kleene",
            compute("equal", raw, compute("floor", raw)),
            compute("less", compute("abs", raw), pa.scalar(2.0**53)),
        )
        return keep(raw, whole).cast(pa.int64())
    if _is_text(raw):
        text = raw.cast(pa.string())
        return keep(text, matches(text, INTEGER)).cast(pa.int64())
    return _none(raw, pa.int64())


def _number(raw: Any) -> Any:
    if pa.types.is_floating(raw.type) or pa.types.is_integer(raw.type):
        values = raw.cast(pa.float64(), safe=False)
    elif _is_text(raw):
        text = raw.cast(pa.string())
        values = keep(text, matches(text, NUMBER)).cast(pa.float64())
    else:
        values = _none(raw, pa.float64())
    return keep(values, compute("is_finite", values))


def _boolean(raw: Any) -> Any:
    if pa.types.is_boolean(raw.type):
        return raw
    if pa.types.is_integer(raw.type) or pa.types.is_floating(raw.type):
        known = compute(
            "or_kleene", compute("equal", raw, pa.scalar(0, raw.type)), compute("equal", raw, pa.scalar(1, raw.type))
        )
        return keep(raw, known).cast(pa.bool_())
    if _is_text(raw):
        text = compute("utf8_lower", raw.cast(pa.string()))
        return keep(text, matches(text, "^(true|false|1|0)$")).cast(pa.bool_())
    return _none(raw, pa.bool_())


def _time(raw: Any) -> Any:
    if pa.types.is_timestamp(raw.type):
        return _of_our_era(raw.cast(MICROS, safe=False))
    if not _is_text(raw):
        return _none(raw, MICROS)
    text = raw.cast(pa.string())
    text = keep(text, matches(text, TIME))
    rest = compute("if_else", matches(text, DAY), pa.scalar("T00:00:00Z"), pa.scalar("Z"))
    rest = compute("if_else", matches(text, ZONE), pa.scalar(""), rest)
    full = compute("binary_join_element_wise", text, rest, pa.scalar(""))
    try:
        return _of_our_era(_cut_nanos(full).cast(MICROS))
    except pa.ArrowInvalid:  # a 31st of February among them: one by one, to find which
        return pa.array([_one_time(one) for one in full.to_pylist()], MICROS)


def _of_our_era(times: Any) -> Any:
    ticks = times.cast(pa.int64())
    late = compute("greater_equal", ticks, pa.scalar(FIRST))
    return keep(times, compute("and_kleene", late, compute("less", ticks, pa.scalar(FAR))))


def _cut_nanos(text: Any) -> Any:
    import pyarrow.compute as pc

    cut = pc.ReplaceSubstringOptions(r"(\.[0-9]{6})[0-9]+", r"\1")
    return compute("replace_substring_regex", text, options=cut)


def _one_time(text: str | None) -> Any:
    try:
        return None if text is None else _of_our_era(_cut_nanos(pa.array([text])).cast(MICROS))[0].as_py()
    except pa.ArrowInvalid:
        return None


def _is_text(raw: Any) -> bool:
    return pa.types.is_string(raw.type) or pa.types.is_large_string(raw.type)


_READERS: dict[str, Any] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "time": _time,
}
