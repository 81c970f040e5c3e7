"""Open Inference Protocol v2 in JSON: tensors in, tensors out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import orjson

from ctloop_serving.domain.columns import MISSING_TIME, Array, convert, record_id, times
from ctloop_serving.domain.refusals import MAX_ROWS, Refusal, bad_value, not_json, too_large, unknown_column
from ctloop_serving.domain.request import Computed, Decoded, Stamp
from ctloop_serving.domain.schema import InputColumn, Kind, RequestSchema

INTEGERS = frozenset(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
FLOATS = frozenset(("FP16", "FP32", "FP64", "BF16"))
DATATYPES: dict[Kind, frozenset[str]] = {
    "number": INTEGERS | FLOATS | {"BOOL"},
    "boolean": INTEGERS | FLOATS | {"BOOL"},
    "text": frozenset(("BYTES",)),
    "time": frozenset(("BYTES", "INT64")),
}
DATATYPE: dict[Kind, str] = {"number": "FP32", "boolean": "FP32", "text": "BYTES", "time": "INT64"}
FARTHEST = 250_000_000_000_000_000
"""Microseconds from the epoch a time may be away, about 8,000 years."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says besides its rows."""

    id: str | None
    outputs: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input of a request."""

    number: int
    name: str
    datatype: str
    data: Sequence[Any]

    def at(self, row: int) -> str:
        """JSON pointer to a value."""
        return f"/inputs/{self.number}/data/{row}"


def decode(body: bytes, schema: RequestSchema) -> tuple[Decoded, Asked]:
    """The rows of an inference request.

    Raises:
        Refusal: no JSON, unknown inputs, wrong datatypes or shapes, values that do not fit.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise not_json(f"not JSON: {error}"[:300]) from None
    if type(parsed) is not dict or type(parsed.get("inputs")) is not list:
        raise not_json('expected an object with "inputs", a list of tensors')
    request = cast(dict[str, Any], parsed)
    tensors = _tensors(request["inputs"], schema)
    rows = _rows(tensors)
    feeds = {column.name: _feed(column, tensors.get(column.name), rows) for column in schema.inputs}
    ids = _record_ids(request.get("parameters"), tensors, schema, rows)
    return Decoded(feeds, rows, ids, _times(schema, feeds, tensors, rows)), _asked(request, schema)


def _tensors(inputs: list[Any], schema: RequestSchema) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for number, one in enumerate(inputs[: len(schema.known) + 1]):
        tensor = _tensor(number, one, schema)
        if tensor.name in tensors:
            raise bad_value(f"/inputs/{number}/name", f"input {tensor.name!r} comes twice")
        tensors[tensor.name] = tensor
    if not tensors:
        raise bad_value("/inputs", f"expected: {schema.expected}")
    return tensors


def _tensor(number: int, one: Any, schema: RequestSchema) -> Tensor:
    pointer = f"/inputs/{number}"
    if type(one) is not dict:
        raise bad_value(pointer, "expected a tensor: name, shape, datatype, data")
    tensor = cast(dict[str, Any], one)
    name, shape, datatype, data = (tensor.get(key) for key in ("name", "shape", "datatype", "data"))
    if type(name) is not str or type(datatype) is not str or type(data) is not list or type(shape) is not list:
        raise bad_value(pointer, "expected name and datatype as text, shape and data as lists")
    if name not in schema.known:
        raise unknown_column(f"{pointer}/name", name, schema.expected)
    flat = _flat(data, pointer)
    if shape not in ([len(flat)], [len(flat), 1]) or bool in map(type, shape):
        raise bad_value(f"{pointer}/shape", f"expected [N] or [N, 1] for {len(flat)} values, got {str(shape)[:60]}")
    return Tensor(number, name, datatype, flat)


def _flat(data: list[Any], pointer: str) -> list[Any]:
    if not data or type(data[0]) is not list:
        return data
    if any(type(one) is not list or len(one) != 1 for one in data):
        raise bad_value(f"{pointer}/data", "expected one value per row")
    return [one[0] for one in data]


def _rows(tensors: dict[str, Tensor]) -> int:
    first = next(iter(tensors.values()))
    for tensor in tensors.values():
        if len(tensor.data) != len(first.data):
            detail = f"{tensor.name} has {len(tensor.data)} rows, {first.name} has {len(first.data)}"
            raise bad_value(f"/inputs/{tensor.number}/shape", detail)
    if not first.data:
        raise bad_value("/inputs", "expected at least one row")
    if len(first.data) > MAX_ROWS:
        raise too_large(f"{len(first.data)} rows")
    return len(first.data)


def _feed(column: InputColumn, tensor: Tensor | None, rows: int) -> Array:
    if tensor is None:
        return convert(column, [None] * rows, lambda row: "/inputs")
    if tensor.datatype not in DATATYPES[column.kind]:
        expected = DATATYPE[column.kind]
        raise bad_value(
            f"/inputs/{tensor.number}/datatype", f"{column.name} is {expected}, got {tensor.datatype[:20]!r}"
        )
    if tensor.datatype == "INT64" and column.kind == "time":
        return _microseconds(tensor, required=column.required).reshape(-1, 1)
    data = tensor.data
    if tensor.datatype == "BOOL":
        data = [int(one) if type(one) is bool else one for one in data]
    return convert(column, data, tensor.at)


def _microseconds(tensor: Tensor, *, required: bool) -> Array:
    for row, one in enumerate(tensor.data):
        if (one is None and required) or (one is not None and (type(one) is not int or abs(one) > FARTHEST)):
            raise bad_value(tensor.at(row), "expected microseconds since the epoch, UTC")
    return np.array([MISSING_TIME if one is None else one for one in tensor.data], np.int64)


def _times(schema: RequestSchema, feeds: dict[str, Array], tensors: dict[str, Tensor], rows: int) -> list[int | None]:
    name = schema.time
    if name is None or (name not in feeds and name not in tensors):
        return [None] * rows
    if name in feeds:
        found = feeds[name].ravel()
    elif tensors[name].datatype == "INT64":
        found = _microseconds(tensors[name], required=False)
    else:
        found, _ = times(tensors[name].data, tensors[name].at)
    return [None if one == MISSING_TIME else one for one in found.tolist()]


def _record_ids(parameters: Any, tensors: dict[str, Tensor], schema: RequestSchema, rows: int) -> list[str | None]:
    """From the input named as the record's id, else from the parameter record_id (or id) of a request of one row."""
    tensor = tensors.get(schema.id) or tensors.get("id")
    if tensor is not None:
        return [record_id(one, tensor.at(row)) for row, one in enumerate(tensor.data)]
    if type(parameters) is not dict:
        return [None] * rows
    named = cast(dict[str, Any], parameters)
    value = named.get("record_id", named.get("id"))
    values: list[Any] = cast(list[Any], value) if type(value) is list else [value]
    if value is None:
        return [None] * rows
    if len(values) != rows:
        hint = f"send an input {schema.id!r} of datatype BYTES"
        raise bad_value("/parameters/record_id", f"{len(values)} record ids for {rows} rows", hint)
    return [record_id(one, "/parameters/record_id") for one in values]


def output_names(schema: RequestSchema) -> tuple[str, ...]:
    """The outputs of a model: label and probabilities, or value."""
    return ("label", "probabilities") if schema.classes else ("value",)


def _asked(request: dict[str, Any], schema: RequestSchema) -> Asked:
    id = request.get("id")
    wanted = request.get("outputs")
    if (id is not None and type(id) is not str) or (wanted is not None and type(wanted) is not list):
        raise not_json('expected "id" as text and "outputs" as a list')
    if not wanted:
        return Asked(id, None)
    known = output_names(schema)
    names: list[Any] = [cast(dict[str, Any], one).get("name") if type(one) is dict else one for one in wanted]
    for name in names:
        if name not in known:
            raise Refusal(400, "CT5003", f"unknown output {str(name)[:100]!r}", f"expected: {', '.join(known)}")
    return Asked(id, frozenset(names))


def encode(
    computed: Computed, decoded: Decoded, ids: Sequence[str], schema: RequestSchema, stamp: Stamp, asked: Asked
) -> bytes:
    """The inference response; version, digest, epoch and prediction ids are in it."""
    parameters: dict[str, Any] = {"digest": stamp.digest, "epoch": stamp.epoch, "prediction_id": ids[0]}
    if len(ids) > 1:
        parameters["prediction_ids"] = ",".join(ids)
    body: dict[str, Any] = {
        "model_name": stamp.model,
        "model_version": str(stamp.version),
        "parameters": parameters,
        "outputs": [
            tensor
            for tensor in _outputs(computed, decoded.rows, schema)
            if asked.outputs is None or tensor["name"] in asked.outputs
        ],
    }
    if asked.id is not None:
        body["id"] = asked.id
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _outputs(computed: Computed, rows: int, schema: RequestSchema) -> list[dict[str, Any]]:
    if computed.value is not None:
        return [{"name": "value", "datatype": "FP32", "shape": [rows, 1], "data": _flat32(computed.value)}]
    assert computed.label is not None and computed.probabilities is not None
    labels = [schema.classes[one] for one in computed.label.ravel().tolist()]
    return [
        {"name": "label", "datatype": "BYTES", "shape": [rows, 1], "data": labels},
        {
            "name": "probabilities",
            "datatype": "FP32",
            "shape": [rows, len(schema.classes)],
            "data": _flat32(computed.probabilities),
        },
    ]


def _flat32(array: Array) -> Array:
    return np.ascontiguousarray(array, np.float32).ravel()


def metadata(schema: RequestSchema, stamp: Stamp) -> dict[str, Any]:
    """The model's metadata, from its signature."""
    outputs = [
        {"name": "label", "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(schema.classes)]},
    ]
    return {
        "name": stamp.model,
        "versions": [str(stamp.version)],
        "platform": "onnx",
        "inputs": [{"name": one.name, "datatype": DATATYPE[one.kind], "shape": [-1, 1]} for one in schema.inputs],
        "outputs": outputs if schema.classes else [{"name": "value", "datatype": "FP32", "shape": [-1, 1]}],
        "parameters": {
            "digest": stamp.digest,
            "epoch": stamp.epoch,
            "classes": ",".join(schema.classes),
            "record_id": schema.id,
        },
    }
