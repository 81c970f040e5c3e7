"""A fitted estimator as ONNX: scikit-learn pipelines and LightGBM, one input per column, derived columns in the graph."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctloop import columns, onnx_converters, onnx_rows
from ctloop.derived import OnGraph, carry_out, parse
from ctloop.events.manifest import DerivedSpec, FieldSpec, RecordSpec
from ctloop.events.values import Column, Parity, Signature
from ctloop.problems import Problem

OPSET = {"": 18, "ai.onnx.ml": 3}
OLDEST_OPSET = 11
"""What the nodes we add need."""
GOLDEN_ROWS = 16
MATRIX = "ctloop_matrix"


@dataclass(frozen=True)
class Exported:
    """The inference form, what it takes and gives, and how far it is from the estimator."""

    body: bytes
    signature: Signature
    parity: Parity


def prepare() -> None:
    """Import the converters now, for a process whose first export should not pay for it (seconds)."""
    import_module("skl2onnx")
    onnx_converters.register()


def check_estimator(estimator: Any, spec: RecordSpec) -> None:
    """Raises Problem CT3101 when the fit function returned no fitted estimator of the task."""
    classifies = spec.label is not None and (spec.label.kind in ("boolean", "string") or spec.label.allowed is not None)
    needed = ("predict_proba", "classes_") if classifies else ("predict",)
    missing = [name for name in needed if not hasattr(estimator, name)]
    if missing:
        raise Problem("CT3101", f"{type(estimator).__name__} has no {' and no '.join(missing)}")


def export(estimator: Any, spec: RecordSpec, rows: pa.Table, classes: Sequence[str] = ()) -> Exported:
    """The ONNX form of an estimator, compared with it on raw rows.

    Raises:
        Problem: CT3102, there is no conversion.
    """
    signature = signature_of(spec, classes)
    try:
        body = _made(estimator, spec, classes)
        given = onnx_rows.run(onnx_rows.open_session(body), signature, rows)
    except Exception as error:
        raise Problem("CT3102", f"{type(estimator).__name__}: {_plainly(error)}"[:1500]) from error
    return Exported(body, signature, parity(given.matrix, predict(estimator, spec, rows, classes)))


def _plainly(error: Exception) -> str:
    """What the converter says, without its advice to its own developers."""
    found = re.search(r"Unable to find a shape calculator for type '<class '([^']+)'>'", str(error))
    return f"{found[1]} has no conversion to ONNX" if found else str(error)


def _made(estimator: Any, spec: RecordSpec, classes: Sequence[str]) -> bytes:
    with onnx_converters.convertible(estimator) as one:
        model = _convert(one, spec, bool(classes))
    known = [int(one) for one in estimator.classes_] if classes else []
    _finish(model, spec, known, signature_of(spec, classes))
    if _takes_matrix(estimator, spec):
        _join(model, spec)
    _derive(model, spec)
    for one in model.opset_import:  # converters settle on the oldest opset they need; our own nodes need 11
        one.version = max(one.version, OLDEST_OPSET) if one.domain == "" else one.version
    if all(one.domain for one in model.opset_import):
        model.opset_import.add(domain="", version=OLDEST_OPSET)
    return model.SerializeToString()


def predict(estimator: Any, spec: RecordSpec, rows: pa.Table, classes: Sequence[str]) -> NDArray[np.float64]:
    """What the estimator itself says of raw rows: [N, C] over all classes, or [N, 1]."""
    X = columns.to_frame(rows, spec)
    if not classes:
        return np.asarray(estimator.predict(X), np.float64).reshape(-1, 1)
    full = np.zeros((len(X), len(classes)))
    full[:, np.asarray(estimator.classes_, np.int64)] = estimator.predict_proba(X)
    return full


def parity(given: NDArray[np.float64], wanted: NDArray[np.float64]) -> Parity:
    """Largest difference of outputs (of values: relative to their size) and decisions flipped.

    A flip where the estimator itself has a tie within rounding is none. Values decide nothing: one that is off by more
    than a tenth of their standard deviation counts as a flip.
    """
    difference = np.abs(given - wanted)
    if given.shape[1] == 1:
        relative = difference / np.maximum(1.0, np.abs(wanted))
        off = int((difference > np.maximum(0.1 * wanted.std(), 1e-3 * np.abs(wanted))).sum()) if len(wanted) else 0
        return Parity(rows=len(given), largest_difference=float(relative.max(initial=0.0)), flipped=off)
    top = np.sort(wanted, axis=1)
    tie = top[:, -1] - top[:, -2] < 1e-5
    flipped = (given.argmax(axis=1) != wanted.argmax(axis=1)) & ~tie
    return Parity(rows=len(given), largest_difference=float(difference.max(initial=0.0)), flipped=int(flipped.sum()))


def signature_of(spec: RecordSpec, classes: Sequence[str]) -> Signature:
    """Inputs named after the columns; times only where a derived column needs them."""
    used = {name for one in spec.derived for name in _columns_of(spec, one)}
    inputs = [_input(one) for one in spec.inputs if isinstance(one, FieldSpec)]
    have = {one.name for one in inputs}
    inputs += [_input(one) for one in spec.fields if one.name in used and one.name not in have]
    outputs = ("label", "probabilities") if classes else ("value",)
    return Signature(
        inputs=tuple(inputs), outputs=tuple(Column(name=one, kind="number") for one in outputs), classes=tuple(classes)
    )


def golden(exported: Exported, rows: pa.Table, n: int = GOLDEN_ROWS) -> bytes:
    """Rows spread over the table with the outputs they must give, as an Arrow stream."""
    picked = rows.take(np.unique(np.linspace(0, max(0, rows.num_rows - 1), n).astype(np.int64)))
    given = onnx_rows.run(onnx_rows.open_session(exported.body), exported.signature, picked)
    held = [one.name for one in exported.signature.inputs if one.name in picked.column_names]
    table = {f"input.{name}": picked.column(name) for name in held}
    if given.value is not None:
        table["output.value"] = pa.array(given.value)
    elif given.label is not None and given.probabilities is not None:
        table["output.label"] = pa.array(given.label)
        table["output.probabilities"] = pa.array(given.probabilities.tolist(), pa.list_(pa.float64()))
    sink = io.BytesIO()
    made = pa.table(table)
    with pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made)
    return sink.getvalue()


def _columns_of(spec: RecordSpec, one: DerivedSpec) -> tuple[str, ...]:
    expression = parse(one.expression, {field.name: field.kind for field in spec.fields})
    return (*expression.numbers, *expression.times)


def _input(field: FieldSpec) -> Column:
    kinds = {"string": "text", "time": "time", "boolean": "boolean"}
    return Column(name=field.name, kind=kinds.get(field.kind, "number"))


def _convert(estimator: Any, spec: RecordSpec, classifies: bool) -> Any:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    onnx_converters.register()
    taken = [
        (one.name, StringTensorType([None, 1]) if one.kind == "string" else FloatTensorType([None, 1]))
        for one in spec.inputs
    ]
    if _takes_matrix(estimator, spec):
        taken = [(MATRIX, FloatTensorType([None, len(spec.inputs)]))]
    options = {id(onnx_converters.last(estimator)): {"zipmap": False}} if classifies else None
    return convert_sklearn(estimator, name=spec.dataset, initial_types=taken, target_opset=OPSET, options=options)


def _takes_matrix(estimator: Any, spec: RecordSpec) -> bool:
    """No ColumnTransformer picks columns by name: all of them side by side are one matrix, Literals by their number.

    Words cannot be in a matrix of numbers, but where the estimator itself knows categories (LightGBM) they are none.
    """
    from sklearn.compose import ColumnTransformer

    parts = [estimator, *estimator.get_params(deep=True).values()]
    if any(isinstance(one, ColumnTransformer) for one in parts):
        return False
    return type(estimator).__name__.startswith("LGBM") or all(one.kind != "string" for one in spec.inputs)


def _join(model: Any, spec: RecordSpec) -> None:
    """The matrix made of the columns, in the graph."""
    from onnx import TensorProto, helper

    graph = model.graph
    del graph.input[:]
    nodes, parts = list[Any](), list[str]()
    for one in spec.inputs:
        words = isinstance(one, FieldSpec) and one.kind == "string"
        type = TensorProto.STRING if words else TensorProto.FLOAT
        graph.input.append(helper.make_tensor_value_info(one.name, type, [None, 1]))
        parts.append(f"ctloop/code/{one.name}" if words else one.name)
        if isinstance(one, FieldSpec) and words:
            levels = columns.levels(one) or []
            named: dict[str, Any] = {"keys_strings": levels, "values_floats": [float(n) for n in range(len(levels))]}
            nodes.append(
                helper.make_node(
                    "LabelEncoder", [one.name], parts[-1:], domain="ai.onnx.ml", default_float=float("nan"), **named
                )
            )
    nodes.append(helper.make_node("Concat", parts, [MATRIX], axis=1))
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *body])


def _finish(model: Any, spec: RecordSpec, known: Sequence[int], signature: Signature) -> None:
    """Inputs named as the columns, outputs label and probabilities over all classes, or value."""
    from onnx import TensorProto, helper, numpy_helper

    graph, classes = model.graph, len(signature.classes)
    outputs = onnx_rows.output_names(signature)
    made = {name: f"ctloop/made/{name}" for name in (*(one.name for one in spec.fields), *outputs)}
    made |= {one.name: f"ctloop/made/{one.name}" for one in graph.output}
    names = [made[one.name] for one in graph.output]
    if len(graph.input) == len(spec.inputs):  # else one matrix: _join brings the columns
        made |= {one.name: column.name for one, column in zip(graph.input, spec.inputs, strict=True)}
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [made.get(one, one) for one in ends]
    for one in (*graph.input, *graph.initializer):
        one.name = made.get(one.name, one.name)
    del graph.output[:]
    if not classes:
        graph.node.append(helper.make_node("Cast", [names[0]], [outputs[0]], to=TensorProto.FLOAT))
        graph.output.append(helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, [None, 1]))
        return
    label, probabilities = outputs
    spread = np.zeros((len(known), classes), np.float32)
    spread[np.arange(len(known)), known] = 1.0
    graph.initializer.append(numpy_helper.from_array(spread, "ctloop/spread"))
    graph.node.append(helper.make_node("Cast", [names[1]], ["ctloop/float"], to=TensorProto.FLOAT))
    graph.node.append(helper.make_node("MatMul", ["ctloop/float", "ctloop/spread"], [probabilities]))
    graph.node.append(helper.make_node("ArgMax", [probabilities], [label], axis=1, keepdims=0))
    graph.output.append(helper.make_tensor_value_info(label, TensorProto.INT64, [None]))
    graph.output.append(helper.make_tensor_value_info(probabilities, TensorProto.FLOAT, [None, classes]))


def _derive(model: Any, spec: RecordSpec) -> None:
    """Compute derived columns in the graph: their inputs go, the columns they read come."""
    from onnx import TensorProto, helper

    graph = model.graph
    kinds = {field.name: field.kind for field in spec.fields}
    derived = {one.name for one in spec.derived}
    kept = [one for one in graph.input if one.name not in derived]
    del graph.input[:]
    graph.input.extend(kept)
    have, nodes = {one.name for one in kept}, list[Any]()
    for one in spec.derived:
        algebra = OnGraph(f"ctloop/{one.name}")
        expression = parse(one.expression, kinds)
        algebra.column(carry_out(expression, algebra), one.name)
        nodes += algebra.nodes
        graph.initializer.extend(algebra.constants)
        for name in (*expression.numbers, *expression.times):
            if name not in have:
                have.add(name)
                type = TensorProto.INT64 if kinds[name] == "time" else TensorProto.FLOAT
                graph.input.append(helper.make_tensor_value_info(name, type, [None, 1]))
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *body])
