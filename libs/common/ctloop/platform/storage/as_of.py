"""The only join of records and labels: the latest label observed as of a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from ctloop.events.staged import ARRIVED, SEQUENCE

OBSERVED_AT = "_observed_at"
INTERNAL = (SEQUENCE, ARRIVED)
"""Columns of the table of records that are ours: arrival number and row, and when it arrived (wall clock, UTC)."""


@dataclass(frozen=True)
class Question:
    """What to read of a dataset."""

    as_of: datetime | None = None
    columns: Sequence[str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    labelled: bool = True


@dataclass(frozen=True)
class Roles:
    """Which columns of the records are the id, the event time (None: arrival order) and the label."""

    id: str
    time: str | None = None
    label: str | None = None

    @property
    def time_column(self) -> str:
        return self.time or ARRIVED


def select_records(schema: pa.Schema, roles: Roles, question: Question, *, labels: bool) -> str:
    """The SQL over the tables ``records`` and ``labels`` (without ``labels``: records alone)."""
    wanted = _wanted(schema, roles, question.columns, labels=labels)
    time = f"r.{quoted(roles.time_column)}"
    where = [f"{time} >= {instant(question.since)}"] if question.since else []
    where += [f"{time} < {instant(question.until)}"] if question.until else []
    kind = "JOIN" if question.labelled else "LEFT JOIN"
    joined = f"{kind} ({_latest_labels(question.as_of)}) l ON r.{quoted(roles.id)} = l.id"
    return (
        f"SELECT {', '.join(wanted)} FROM records r {joined if labels else ''} "
        f"{'WHERE ' + ' AND '.join(where) if where else ''} ORDER BY {time}, r.{SEQUENCE}"
    )


def _wanted(schema: pa.Schema, roles: Roles, columns: Sequence[str] | None, *, labels: bool) -> list[str]:
    names: list[str] = [name for name in schema.names if name not in INTERNAL] if columns is None else list(columns)
    if columns is None and labels and roles.label:
        names.append(roles.label)
    known: set[str] = set(schema.names)
    label = {roles.label or "": "l.value", OBSERVED_AT: "l.observed_at"} if labels else {}
    there = [name for name in names if name in known or name in label]
    return [f"{label.get(name) or 'r.' + quoted(name)} AS {quoted(name)}" for name in there] or ["1 AS none"]


def _latest_labels(as_of: datetime | None) -> str:
    observed = f"WHERE observed_at <= {instant(as_of)}" if as_of else ""
    return (
        "SELECT id, value, observed_at FROM (SELECT id, value, observed_at, row_number() OVER "
        f"(PARTITION BY id ORDER BY observed_at DESC, sequence DESC) AS place FROM labels {observed}) WHERE place = 1"
    )


def quoted(name: str) -> str:
    """A column's name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def instant(time: datetime | None) -> str:
    """A time as an SQL literal, in UTC with microseconds.

    Raises:
        ValueError: a time without zone.
    """
    if time is None or time.tzinfo is None:
        raise ValueError("a time needs its zone")
    text = time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    return f"arrow_cast('{text}+00:00', 'Timestamp(Microsecond, Some(\"UTC\"))')"


def plain(table: pa.Table) -> pa.Table:
    """With the Arrow types everybody reads: views of strings become strings."""
    return table.cast(pa.schema([pa.field(field.name, plain_type(field.type)) for field in table.schema]))


def plain_type(type: Any) -> Any:
    """The everyday form of a type that Delta or DataFusion gives."""
    if pa.types.is_string_view(type) or pa.types.is_large_string(type):
        return pa.string()
    if pa.types.is_timestamp(type):
        return pa.timestamp("us", "UTC")
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return pa.list_(plain_type(type.value_type))
    return type
