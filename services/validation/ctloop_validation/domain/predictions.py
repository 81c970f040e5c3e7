"""Served predictions as a dataset: a fixed schema and a light audit; serving is ours and derives the ids."""

from typing import Any

import numpy as np
import pyarrow as pa

from ctloop.events.data import PREDICTION_COLUMNS
from ctloop.events.manifest import FieldSpec, RecordSpec

INPUT = "input."
TEXT = ("prediction_id", "record_id", "label")
WHOLE = ("version", "epoch")
TIMES = ("data_time", "served_at")
OPTIONAL = ("record_id", "label", "probabilities", "output", "served_at")


def prediction_record(record: RecordSpec) -> RecordSpec:
    """The record class of predictions: PREDICTION_COLUMNS but the probabilities, and the model's inputs as numbers or text."""
    fields = [FieldSpec(name=name, kind=_kind(name), nullable=name in OPTIONAL) for name in PREDICTION_COLUMNS
              if name != "probabilities"]  # fmt: skip
    inputs = [_input(one.name, one.kind) for one in record.inputs]
    return RecordSpec(dataset=record.dataset, id="prediction_id", time="data_time", fields=(*fields, *inputs))


def _kind(name: str) -> Any:
    if name in TEXT:
        return "string"
    return "integer" if name in WHOLE else "time" if name in TIMES else "number"


def _input(name: str, kind: str) -> FieldSpec:
    read = kind if kind in ("string", "time") else "number"
    return FieldSpec.model_construct(name=INPUT + name, kind=read, nullable=True)


def probabilities(staged: pa.Table, rows: Any) -> Any:
    """The probabilities of some rows as lists of float64; null where there are none."""
    type = pa.list_(pa.float64())
    if "probabilities" not in staged.column_names:
        return pa.nulls(len(rows), type)
    column: Any = staged.column("probabilities").combine_chunks()
    if not pa.types.is_list(column.type):
        return pa.nulls(len(rows), type)
    return column.take(pa.array(np.asarray(rows))).cast(type)
