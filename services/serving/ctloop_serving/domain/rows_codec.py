"""Rows JSON: one row or a list of rows in, predictions by name out."""

from collections.abc import Sequence
from typing import Any, cast

import orjson

from ctloop_serving.domain.columns import MISSING_TIME, At, convert, micros, record_id
from ctloop_serving.domain.refusals import MAX_ROWS, bad_value, not_json, too_large, unknown_column
from ctloop_serving.domain.request import Computed, Decoded, Stamp
from ctloop_serving.domain.schema import RequestSchema

Row = dict[str, Any]


def decode(body: bytes, schema: RequestSchema) -> tuple[Decoded, bool]:
    """The rows of a body, and whether it was one bare row.

    Raises:
        Refusal: no JSON, no row, unknown columns, values that do not fit.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise not_json(f"not JSON: {error}"[:300]) from None
    single = type(parsed) is dict
    rows = cast(list[Row], [parsed] if single else parsed)
    if type(rows) is not list or not rows:
        raise not_json("expected a row (an object) or a list of rows with at least one")
    if len(rows) > MAX_ROWS:
        raise too_large(f"{len(rows)} rows")
    _check_rows(rows, schema, single)
    feeds = {
        column.name: convert(column, [row.get(column.name) for row in rows], _pointers(column.name, single))
        for column in schema.inputs
    }
    return Decoded(feeds, len(rows), _record_ids(rows, schema, single), _times(rows, schema, feeds, single)), single


def _check_rows(rows: Sequence[Any], schema: RequestSchema, single: bool) -> None:
    for number, row in enumerate(rows):
        if type(row) is not dict:
            raise bad_value(f"/{number}", "expected a row (an object)")
        if not schema.known.issuperset(cast(Row, row)):
            name = next(one for one in cast(Row, row) if one not in schema.known)
            raise unknown_column(_pointers(name, single)(number), name, schema.expected)


def _pointers(name: str, single: bool) -> At:
    escaped = name.replace("~", "~0").replace("/", "~1")
    return lambda row: f"/{escaped}" if single else f"/{row}/{escaped}"


def _record_ids(rows: Sequence[Row], schema: RequestSchema, single: bool) -> list[str | None]:
    named = schema.id
    ids: list[str | None] = []
    for number, row in enumerate(rows):
        name = named if named in row else "id"
        value = row.get(name)
        ids.append(None if value is None else record_id(value, _pointers(name, single)(number)))
    return ids


def _times(rows: Sequence[Row], schema: RequestSchema, feeds: dict[str, Any], single: bool) -> list[int | None]:
    name = schema.time
    if name is None:
        return [None] * len(rows)
    if name in feeds:
        return [None if one == MISSING_TIME else one for one in feeds[name].ravel().tolist()]
    at = _pointers(name, single)
    return [None if (value := row.get(name)) is None else micros(value, number, at) for number, row in enumerate(rows)]


def encode(
    computed: Computed, decoded: Decoded, ids: Sequence[str], schema: RequestSchema, stamp: Stamp, single: bool
) -> bytes:
    """The answer: model, version, digest, epoch, and per row id, prediction and probabilities."""
    head = {"model": stamp.model, "version": stamp.version, "digest": stamp.digest, "epoch": stamp.epoch}
    rows = _predictions(computed, decoded, ids, schema)
    return orjson.dumps(head | rows[0] if single else head | {"predictions": rows})


def _predictions(computed: Computed, decoded: Decoded, ids: Sequence[str], schema: RequestSchema) -> list[Row]:
    if computed.value is not None:
        return [
            {"prediction_id": ids[row], "id": decoded.record_ids[row], "prediction": value}
            for row, value in enumerate(computed.value.ravel().astype(float).tolist())
        ]
    assert computed.label is not None and computed.probabilities is not None
    probabilities = computed.probabilities.astype(float).tolist()
    return [
        {
            "prediction_id": ids[row],
            "id": decoded.record_ids[row],
            "prediction": schema.levels[label],
            "probabilities": dict(zip(schema.classes, probabilities[row], strict=True)),
        }
        for row, label in enumerate(computed.label.ravel().tolist())
    ]
