"""JSON values of one column as the array ONNX takes: checked for type and range, missing values in their ONNX form."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctloop_serving.domain.refusals import MAX_ID, MAX_TEXT, Refusal, bad_value
from ctloop_serving.domain.schema import InputColumn, Kind

MISSING_TIME = int(np.iinfo(np.int64).min)
"""A missing time as the ONNX form takes it."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NUMBERS = frozenset((int, float))
NUMBERS_OR_NONE = frozenset((int, float, type(None)))
TEXTS = frozenset((str,))
TEXTS_OR_NONE = frozenset((str, type(None)))
WORDS = {type(None): "null", str: "a string", bool: "true or false", int: "a number", float: "a number", list: "a list"}

Array = NDArray[Any]
At = Callable[[int], str]
"""Row number to JSON pointer."""


def convert(column: InputColumn, values: Sequence[Any], at: At) -> Array:
    """The ONNX input of a column, shape [N, 1].

    Raises:
        Refusal: a value of another type, not finite in 32 bits, or null in a required column.
    """
    array, missing = CONVERTERS[column.kind](values, at)
    if column.required and missing is not None:
        row = int(np.argmax(missing))
        raise bad_value(at(row), f"{column.name} may not be null or absent", f"expected {_article(column.kind)}")
    return array.reshape(-1, 1)


def numbers(values: Sequence[Any], at: At) -> tuple[Array, Array | None]:
    """FP32; null is NaN."""
    types = set(map(type, values))
    missing: Array | None = None
    filled = values
    if not types <= NUMBERS:
        _refuse_other_types(values, NUMBERS_OR_NONE, "number", at)
        missing = np.fromiter((one is None for one in values), bool, len(values))
        filled = [np.nan if one is None else one for one in values]
    try:
        with np.errstate(over="ignore"):
            array = np.array(filled, np.float64).astype(np.float32)
    except OverflowError:
        array = np.array([_as_float(one) for one in filled], np.float64).astype(np.float32)
    wrong = ~np.isfinite(array) if missing is None else ~np.isfinite(array) & ~missing
    if wrong.any():
        raise bad_value(at(int(np.argmax(wrong))), "expected a finite number within 32-bit floating point")
    return array, missing


def booleans(values: Sequence[Any], at: At) -> tuple[Array, Array | None]:
    """FP32 0 or 1; null is NaN."""
    for row, one in enumerate(values):
        if one is not None and (type(one) not in (bool, int, float) or one not in (0, 1)):
            raise bad_value(at(row), f"expected true or false, got {_word(one)}")
    array = np.array([np.nan if one is None else float(one) for one in values], np.float32)
    missing = np.isnan(array)
    return array, missing if missing.any() else None


def texts(values: Sequence[Any], at: At) -> tuple[Array, Array | None]:
    """Strings; null is the empty string."""
    missing: Array | None = None
    if not set(map(type, values)) <= TEXTS:
        _refuse_other_types(values, TEXTS_OR_NONE, "text", at)
        missing = np.fromiter((one is None for one in values), bool, len(values))
        values = ["" if one is None else one for one in values]
    for row, one in enumerate(values):
        if "\0" in one or len(one) > MAX_TEXT:
            raise bad_value(at(row), f"expected text without NUL of at most {MAX_TEXT} characters")
    return np.array(values, object), missing


def times(values: Sequence[Any], at: At) -> tuple[Array, Array | None]:
    """Microseconds since the epoch, UTC, int64; a time without a zone is UTC, null is the smallest int64."""
    array = np.array(
        [MISSING_TIME if one is None else micros(one, row, at) for row, one in enumerate(values)], np.int64
    )
    missing = array == MISSING_TIME
    return array, missing if missing.any() else None


def micros(value: Any, row: int, at: At) -> int:
    """An ISO 8601 time as microseconds since the epoch.

    Raises:
        Refusal: it is none.
    """
    if type(value) is not str:
        raise bad_value(at(row), f"expected an ISO 8601 time, got {_word(value)}", "e.g. 2013-05-14T06:30:00Z")
    try:
        time = datetime.fromisoformat(value)
        since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - EPOCH
    except (ValueError, OverflowError):
        raise bad_value(
            at(row), f"expected an ISO 8601 time, got {value[:40]!r}", "e.g. 2013-05-14T06:30:00Z"
        ) from None
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def record_id(value: Any, pointer: str) -> str | None:
    """A record id as text; numbers are written out.

    Raises:
        Refusal: it is neither text nor a whole number, too long, or has a NUL.
    """
    if value is None:
        return None
    if type(value) not in (str, int):
        raise bad_value(pointer, f"expected a record id as text, got {_word(value)}")
    text = str(value) if type(value) is str or abs(value) < 10**100 else ""
    if not text or len(text) > MAX_ID or "\0" in text:
        raise bad_value(pointer, f"expected a record id of 1 to {MAX_ID} characters without NUL")
    return text


CONVERTERS: dict[Kind, Callable[[Sequence[Any], At], tuple[Array, Array | None]]] = {
    "number": numbers,
    "boolean": booleans,
    "text": texts,
    "time": times,
}
ARTICLES: dict[Kind, str] = {
    "number": "a number",
    "boolean": "true or false",
    "text": "text",
    "time": "an ISO 8601 time",
}


def _article(kind: Kind) -> str:
    return ARTICLES[kind]


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _word(value: Any) -> str:
    return WORDS.get(type(value), "an object")


def _refuse_other_types(values: Sequence[Any], allowed: frozenset[type], kind: Kind, at: At) -> None:
    for row, one in enumerate(values):
        if type(one) not in allowed:
            raise _wrong_type(at(row), kind, one)


def _wrong_type(pointer: str, kind: Kind, value: Any) -> Refusal:
    return bad_value(pointer, f"expected {_article(kind)}, got {_word(value)}")
