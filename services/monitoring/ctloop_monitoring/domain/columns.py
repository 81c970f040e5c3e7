"""Predictions and labels as columns: read from Arrow, written to PostgreSQL, read back for judging."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctloop.events.data import PREDICTION_COLUMNS
from ctloop.events.errors import SchemaMismatch, Truncated

INPUT = "input."
MICROS = pa.timestamp("us", "UTC")
TYPES: dict[str, pa.DataType] = {
    "prediction_id": pa.string(),
    "record_id": pa.string(),
    "version": pa.int64(),
    "epoch": pa.int64(),
    "output": pa.float64(),
    "probabilities": pa.list_(pa.float64()),
    "data_time": MICROS,
    "served_at": MICROS,
}
NEEDED = ("prediction_id", "version", "epoch", "data_time")
"""Columns that may not be null."""


@dataclass(frozen=True)
class PredictionColumns:
    """Predictions, one list per column, all of one length."""

    prediction_ids: list[UUID]
    record_ids: list[str | None]
    versions: list[int]
    epochs: list[int]
    outputs: list[float | None]
    probabilities: list[bytes | None]
    """float64 in the order of the classes; None for regression, and where one is not finite."""
    data_times: list[datetime]


@dataclass(frozen=True)
class LabelColumns:
    """Observations of labels, one list per column."""

    record_ids: list[str]
    observed_at: list[datetime]
    sequences: list[int]
    words: list[str | None]
    """The class, for classification."""
    numbers: list[float | None]
    """The value, for regression."""


@dataclass(frozen=True)
class Judged:
    """Predictions with the label that judges them, in the order the labels became known."""

    record_ids: list[str]
    outputs: list[float | None]
    probabilities: list[bytes | None]
    words: list[str | None]
    numbers: list[float | None]
    known_at: list[datetime]
    data_times: list[datetime]

    @classmethod
    def of(cls, rows: Sequence[tuple[Any, ...]]) -> "Judged":
        """From rows in the order of the fields."""
        return cls(*(list(column) for column in zip(*rows, strict=True))) if rows else cls([], [], [], [], [], [], [])

    def usable(self, classes: tuple[str, ...]) -> tuple[NDArray[np.float64], NDArray[Any], list[datetime]]:
        """Finite outputs with a known label: probabilities [N, C] (or values [N]), class index (or value), known at."""
        if classes:
            place = {name: number for number, name in enumerate(classes)}
            wanted = 8 * len(classes)
            kept = [
                row
                for row, (vector, word) in enumerate(zip(self.probabilities, self.words, strict=True))
                if vector is not None and len(vector) == wanted and word in place
            ]
            joined = b"".join(vector for row in kept if (vector := self.probabilities[row]) is not None)
            matrix = np.frombuffer(joined, np.float64).reshape(len(kept), len(classes))
            truth = np.array([place[str(self.words[row])] for row in kept], np.int64)
            return matrix, truth, [self.known_at[row] for row in kept]
        kept = [
            row
            for row, (output, number) in enumerate(zip(self.outputs, self.numbers, strict=True))
            if output is not None and number is not None
        ]
        values = np.array([self.outputs[row] for row in kept], np.float64)
        return values, np.array([self.numbers[row] for row in kept], np.float64), [self.known_at[row] for row in kept]


def read_stream(body: bytes) -> pa.Table:
    """The table in an Arrow stream.

    Raises:
        Truncated: it is none, or ends early.
    """
    try:
        return pa.ipc.open_stream(body).read_all()
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        raise Truncated(f"predictions: no whole Arrow stream: {error}"[:300]) from error


def predictions(table: pa.Table) -> pa.Table:
    """The table with PREDICTION_COLUMNS in their types, and the inputs.

    Raises:
        SchemaMismatch: a column is missing or of another type, or null where it may not be.
    """
    missing = [name for name in PREDICTION_COLUMNS if name not in table.column_names]
    if missing:
        raise SchemaMismatch(f"predictions lack {', '.join(missing)}: send PREDICTION_COLUMNS")
    try:
        for name, type in TYPES.items():
            table = table.set_column(table.column_names.index(name), name, table.column(name).cast(type))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaMismatch(f"predictions: {error}"[:300]) from error
    for name in NEEDED:
        if table.column(name).null_count:
            raise SchemaMismatch(f"predictions: {name} may not be null")
    return table


def prediction_columns(table: pa.Table) -> PredictionColumns:
    """What is kept of predictions; numbers that are not finite are left out.

    Raises:
        SchemaMismatch: an id is no UUID.
    """
    try:
        ids = [UUID(one) for one in table.column("prediction_id").to_pylist()]
    except ValueError as error:
        raise SchemaMismatch("predictions: prediction_id is no UUID") from error
    outputs = table.column("output").to_numpy(zero_copy_only=False).astype(np.float64)
    return PredictionColumns(
        prediction_ids=ids,
        record_ids=[one if one and "\0" not in one else None for one in table.column("record_id").to_pylist()],
        versions=table.column("version").to_pylist(),
        epochs=table.column("epoch").to_pylist(),
        outputs=[float(one) if np.isfinite(one) else None for one in outputs],
        probabilities=[_packed(one) for one in table.column("probabilities").to_pylist()],
        data_times=table.column("data_time").to_pylist(),
    )


def _packed(vector: list[float | None] | None) -> bytes | None:
    if not vector or any(one is None for one in vector):
        return None
    array = np.array(vector, np.float64)
    return array.tobytes() if np.isfinite(array).all() else None


def inputs(table: pa.Table) -> pa.Table:
    """The inputs of predictions under the columns' own names, with their data time."""
    names = [name for name in table.column_names if name.startswith(INPUT)]
    columns = {name.removeprefix(INPUT): table.column(name) for name in names}
    return pa.table(columns | {DATA_TIME: table.column("data_time"), OUTPUT: table.column("output")})


DATA_TIME = "ctloop.data_time"
OUTPUT = "ctloop.output"
"""Names in the table of inputs that no column of a record can have."""


def label_columns(table: pa.Table) -> LabelColumns:
    """Accepted labels (id, value, observed_at, sequence) as they are kept.

    Raises:
        SchemaMismatch: a column is missing.
    """
    missing = [name for name in ("id", "value", "observed_at", "sequence") if name not in table.column_names]
    if missing:
        raise SchemaMismatch(f"labels lack {', '.join(missing)}")
    kept = table.filter(table.column("value").is_valid()) if table.column("value").null_count else table
    values = kept.column("value")
    return LabelColumns(
        record_ids=kept.column("id").cast(pa.string()).to_pylist(),
        observed_at=kept.column("observed_at").cast(MICROS).to_pylist(),
        sequences=kept.column("sequence").cast(pa.int64()).to_pylist(),
        words=_words(values),
        numbers=_numbers(values),
    )


def _words(values: pa.ChunkedArray) -> list[str | None]:
    if pa.types.is_floating(values.type):
        return [None] * len(values)
    return [None if one is None else _word(one) for one in values.to_pylist()]


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _numbers(values: pa.ChunkedArray) -> list[float | None]:
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        return [None] * len(values)
    found = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return [float(one) if np.isfinite(one) else None for one in found]
