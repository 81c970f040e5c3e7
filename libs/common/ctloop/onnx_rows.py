"""Arrow rows through a model's ONNX form: gates, replay and monitoring's tests; serving's engine must agree."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ctloop import columns
from ctloop.derived import MISSING_TIME
from ctloop.events.values import Signature

pc: Any = pyarrow.compute
CHUNK = 8192


@dataclass(frozen=True)
class Outputs:
    """What a model says of rows; classification has labels and probabilities, regression values."""

    label: NDArray[np.int64] | None = None
    probabilities: NDArray[np.float64] | None = None
    value: NDArray[np.float64] | None = None

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Probabilities [N, C], or values [N, 1]."""
        found = self.probabilities if self.probabilities is not None else self.value
        assert found is not None
        return found.reshape(len(found), -1)


def open_session(body: bytes, threads: int = 1) -> ort.InferenceSession:
    """A session over bytes: never a path, so that no external data is read."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(body, options, providers=["CPUExecutionProvider"])


def inputs(table: pa.Table, signature: Signature) -> dict[str, NDArray[Any]]:
    """Feeds of every input, [N, 1]; a column the table lacks is missing values."""
    feeds: dict[str, NDArray[Any]] = {}
    for one in signature.inputs:
        held = table.column(one.name) if one.name in table.column_names else None
        if one.kind == "text":
            found = np.full(table.num_rows, "", object) if held is None else _text(held)
        elif one.kind == "time":
            found = np.full(table.num_rows, MISSING_TIME) if held is None else columns.times(held)
        else:
            nothing = np.full(table.num_rows, np.nan)
            found = (nothing if held is None else columns.numbers(held)).astype(np.float32)
        feeds[one.name] = found.reshape(-1, 1)
    return feeds


def output_names(signature: Signature) -> tuple[str, ...]:
    """What the graph calls label and probabilities, or value: ONNX has no two values of one name, a column keeps its own."""
    taken = {one.name for one in signature.inputs}
    wanted = ("label", "probabilities") if signature.classes else ("value",)
    return tuple(f"ctloop/{one}" if one in taken else one for one in wanted)


def run(session: ort.InferenceSession, signature: Signature, table: pa.Table, chunk: int = CHUNK) -> Outputs:
    """The model's outputs for every row."""
    names = list(output_names(signature))
    parts = [
        session.run(names, inputs(table.slice(start, chunk), signature))
        for start in range(0, max(table.num_rows, 1), chunk)
        if table.num_rows
    ]
    found = [np.concatenate(one) for one in zip(*parts, strict=True)] or [np.empty(0) for _ in names]
    if signature.classes:
        label, probabilities = found
        return Outputs(
            label.reshape(-1).astype(np.int64), probabilities.astype(np.float64).reshape(-1, len(signature.classes))
        )
    return Outputs(value=found[0].reshape(-1).astype(np.float64))


def read_golden(body: bytes) -> tuple[pa.Table, Outputs]:
    """Golden inputs and the outputs they must give.

    Raises:
        pa.ArrowInvalid: no whole Arrow stream.
    """
    table = pa.ipc.open_stream(body).read_all()
    given = [name for name in table.column_names if name.startswith("input.")]
    rows = table.select(given).rename_columns([name.removeprefix("input.") for name in given])
    if "output.value" in table.column_names:
        return rows, Outputs(value=table.column("output.value").to_numpy())
    probabilities = np.array(table.column("output.probabilities").to_pylist(), np.float64)
    return rows, Outputs(table.column("output.label").to_numpy(), probabilities)


def _text(column: Any) -> NDArray[Any]:
    if not pa.types.is_string(column.type):
        column = columns.cast_column(column, pa.string())
    return np.array(pc.fill_null(column, "").to_pylist(), dtype=object)
