"""What a request to one model version may bring: its inputs, the record's other columns, and how to name the answer."""

from dataclasses import dataclass
from typing import Literal

from ctloop.events.manifest import RecordSpec
from ctloop.events.values import Signature

Kind = Literal["number", "boolean", "text", "time"]
KINDS = ("number", "boolean", "text", "time")


@dataclass(frozen=True, slots=True)
class InputColumn:
    """One input of the ONNX form; required: a request without it is refused, else it is a missing value."""

    name: str
    kind: Kind
    required: bool


@dataclass(frozen=True, slots=True)
class RequestSchema:
    """The columns of a request, and the names and types of the answer."""

    inputs: tuple[InputColumn, ...]
    id: str
    time: str | None
    known: frozenset[str]
    classes: tuple[str, ...]
    levels: tuple[str | int | bool, ...]
    """The classes as the record class writes them: true, 3 or "red"."""

    @property
    def expected(self) -> str:
        """The inputs in words, for people whose request was refused."""
        return ", ".join(f"{one.name} ({one.kind}{'' if one.required else ', may be null'})" for one in self.inputs)


def request_schema(signature: Signature, record: RecordSpec) -> RequestSchema:
    """Bring together what the ONNX form takes and what the record class says of it.

    Raises:
        ValueError: an input is of no kind serving knows.
    """
    inputs: list[InputColumn] = []
    for column in signature.inputs:
        if column.kind not in KINDS:
            raise ValueError(f"input {column.name!r} is of kind {column.kind!r}; serving knows {', '.join(KINDS)}")
        field = record.field(column.name)
        inputs.append(InputColumn(column.name, column.kind, field is not None and not field.nullable))
    fields = {one.name for one in record.fields} | ({record.label.name} if record.label else set[str]())
    label = record.label.kind if record.label else "string"
    return RequestSchema(
        inputs=tuple(inputs),
        id=record.id,
        time=record.time,
        known=frozenset(fields | {record.id, "id"} | ({record.time} if record.time else set[str]())),
        classes=signature.classes,
        levels=tuple(_level(name, label) for name in signature.classes),
    )


def _level(name: str, kind: str) -> str | int | bool:
    if kind == "boolean":
        return name.lower() == "true"
    return int(name) if kind == "integer" and name.lstrip("-").isdigit() else name
