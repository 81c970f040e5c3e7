"""The record class: what a user says about one occurrence, compiled to a ``RecordSpec`` when the class is made."""

import inspect
import re
import types
import typing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from ctloop.derived import parse
from ctloop.events.manifest import NAME, ColumnKind, DerivedSpec, FieldSpec, RecordSpec
from ctloop.problems import Problem, did_you_mean

CONTENT_ID = "row_digest"
"""Column of the id where the record class names none: the digest of the row."""

_KINDS: dict[Any, ColumnKind] = {str: "string", bool: "boolean", int: "integer", float: "number", datetime: "time"}


@dataclass(frozen=True)
class Rules:
    """What ``ct.field`` and ``ct.label`` say beside the type."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    max_length: int | None = None
    doc: str = ""
    is_label: bool = False


@dataclass(frozen=True)
class Derived:
    """What ``ct.derive`` says."""

    expression: str
    doc: str = ""


def field(
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    max_length: int | None = None,
    doc: str = "",
) -> Any:
    """Rules of a column: a row that breaks one is quarantined with the rule as the reason."""
    return Rules(gt=gt, ge=ge, lt=lt, le=le, max_length=max_length, doc=doc)


def label(
    *, gt: float | None = None, ge: float | None = None, lt: float | None = None, le: float | None = None, doc: str = ""
) -> Any:
    """The column to predict: absent when predicting, sent later under the same id."""
    return Rules(gt=gt, ge=ge, lt=lt, le=le, doc=doc, is_label=True)


def derive(expression: str) -> Any:
    """A column computed from others, e.g. ``minute_of_day(departs)``: the same way for training and for serving."""
    return Derived(expression)


class Record:
    """One occurrence: its columns with types and rules.

    ``class Flight(ct.Record, id="flight", time="departs")``: ``id`` names the column that names the occurrence (none:
    the row's digest), ``time`` the column of event time (none: order of arrival), ``name`` the dataset (none: the
    class's name in kebab case), ``earliest`` and ``latest`` the bounds of event time.
    """

    spec: ClassVar[RecordSpec]

    def __init_subclass__(
        cls,
        *,
        id: str | None = None,
        time: str | None = None,
        name: str | None = None,
        earliest: datetime | str | None = None,
        latest: datetime | str | None = None,
    ) -> None:
        super().__init_subclass__()
        columns = _Columns(cls)
        cls.spec = RecordSpec(
            dataset=_dataset(cls.__name__, name),
            doc=(cls.__dict__.get("__doc__") or "").strip(),
            id=_id_column(columns, id),
            id_from_content=id is None,
            time=_time_column(columns, time),
            fields=tuple(columns.fields),
            derived=tuple(columns.derived()),
            label=columns.label,
            earliest=_instant("earliest", earliest),
            latest=_instant("latest", latest),
        )
        if not cls.spec.inputs:
            raise Problem("CT1108", f"class {cls.__name__} has only {', '.join(columns.kinds) or 'nothing'}")


class _Columns:
    """The annotations of a record class, read in their order."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.fields: list[FieldSpec] = []
        self.label: FieldSpec | None = None
        self._derived: list[tuple[str, Any, Derived]] = []
        for name, annotation in _annotations(cls).items():
            self._read(name, annotation, _said(cls, name))

    @property
    def kinds(self) -> dict[str, ColumnKind]:
        """Kind of each column that arrives."""
        every = [*self.fields, self.label] if self.label else self.fields
        return {one.name: one.kind for one in every}

    def _read(self, name: str, annotation: Any, value: Any) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or len(name) > 100:
            raise Problem("CT1107", f"column {name!r} of class {self.cls.__name__}")
        if isinstance(value, Derived):
            self._derived.append((name, annotation, value))
            return
        if value is not None and not isinstance(value, Rules):
            raise Problem("CT1109", f"column {name!r} is set to {value!r}")
        spec = _field_spec(name, annotation, value or Rules())
        if not (isinstance(value, Rules) and value.is_label):
            self.fields.append(spec)
        elif self.label:
            raise Problem("CT1104", f"{self.label.name!r} and {name!r} are both labels")
        elif spec.kind == "time":
            raise Problem("CT1101", f"label {name!r} is a time", "Predict a number of minutes, or a class.")
        else:
            self.label = spec.model_copy(update={"nullable": False})

    def derived(self) -> list[DerivedSpec]:
        """The derived columns, checked against the others."""
        return [self._derived_spec(*one) for one in self._derived]

    def _derived_spec(self, name: str, annotation: Any, said: Derived) -> DerivedSpec:
        kinds = self.kinds
        if self.label and re.search(rf"\b{re.escape(self.label.name)}\b", said.expression):
            raise Problem(
                "CT1106", f"{name!r} uses the label {self.label.name!r}", "A label is not known when predicting."
            )
        found = parse(said.expression, kinds).kind
        kind = _KINDS.get(_without_none(annotation)[0])
        allowed = {"integer": ("integer",), "number": ("integer", "number"), "boolean": ("boolean",)}
        if kind not in ("integer", "number", "boolean"):
            raise Problem("CT1106", f"{name!r} is declared as {_shown(annotation)}", "A derived column is a number.")
        if found not in allowed[kind]:
            raise Problem("CT1106", f"{name!r} is declared {kind}, and {said.expression!r} gives a {found}")
        return DerivedSpec(name=name, kind=kind, expression=said.expression)


def _annotations(cls: type) -> dict[str, Any]:
    """Annotations of the class and of the record classes it extends, resolved, in order."""
    try:
        hints = typing.get_type_hints(cls)
    except (NameError, TypeError, SyntaxError) as error:
        raise Problem("CT1101", f"an annotation of class {cls.__name__} cannot be resolved: {error}") from error
    names = [name for one in reversed(cls.__mro__) for name in inspect.get_annotations(one)]
    own = [name for name in dict.fromkeys(names) if get_origin(hints[name]) is not ClassVar]
    if "spec" in own:
        raise Problem("CT1107", f"column 'spec' of class {cls.__name__}", "Every record class has a .spec: rename it.")
    return {name: hints[name] for name in own}


def _said(cls: type, name: str) -> Any:
    """What stands beside the annotation, in the class or the one it extends that has it."""
    return next((one.__dict__.get(name) for one in cls.__mro__ if name in inspect.get_annotations(one)), None)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """The type without ``| None``, and whether that was there."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    rest = [one for one in get_args(annotation) if one is not type(None)]
    nullable = len(rest) < len(get_args(annotation))
    return (rest[0] if len(rest) == 1 else annotation), nullable


def _field_spec(name: str, annotation: Any, rules: Rules) -> FieldSpec:
    plain, nullable = _without_none(annotation)
    allowed: tuple[str | int, ...] | None = None
    if get_origin(plain) is Literal:
        allowed = get_args(plain)
        plain = _level_type(name, allowed)
    kind = _KINDS.get(plain)
    if kind is None:
        raise Problem("CT1101", f"column {name!r} is declared as {_shown(annotation)}")
    _check_rules(name, kind, rules)
    return FieldSpec(
        name=name,
        kind=kind,
        nullable=nullable,
        allowed=allowed,
        gt=rules.gt,
        ge=rules.ge,
        lt=rules.lt,
        le=rules.le,
        max_length=rules.max_length,
        doc=rules.doc,
    )


def _level_type(name: str, levels: tuple[Any, ...]) -> type:
    found = {type(one) for one in levels}
    if found not in ({str}, {int}):
        raise Problem(
            "CT1101", f"column {name!r} has levels {levels!r}", "The levels of a Literal are all str or all int."
        )
    if "" in levels:
        raise Problem(
            "CT1101", f'column {name!r} has the level ""', 'Write | None: "" is how a missing text is served.'
        )
    return found.pop()


def _check_rules(name: str, kind: ColumnKind, rules: Rules) -> None:
    bounds = {key: getattr(rules, key) for key in ("gt", "ge", "lt", "le") if getattr(rules, key) is not None}
    if bounds and kind not in ("integer", "number"):
        raise Problem("CT1105", f"column {name!r} is {kind} and has {', '.join(bounds)}")
    if rules.max_length is not None and (kind != "string" or rules.max_length < 1):
        raise Problem("CT1105", f"column {name!r} is {kind} and has max_length={rules.max_length}")
    wrong = next((key for key, value in bounds.items() if not _is_finite(value)), None)
    if wrong:
        raise Problem("CT1105", f"column {name!r} has {wrong}={bounds[wrong]!r}")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _dataset(class_name: str, name: str | None) -> str:
    kebab = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", class_name).lower()
    if not re.fullmatch(NAME, kebab):
        raise Problem("CT1107", f"dataset {kebab!r}", 'Lower-case words joined by hyphens: name="taxi-trip".')
    return kebab


def _id_column(columns: _Columns, id: str | None) -> str:
    if id is None:
        return CONTENT_ID
    found = next((one for one in columns.fields if one.name == id), None)
    if found is None or found.kind not in ("string", "integer") or found.nullable:
        raise Problem("CT1102", f"id={id!r} {_said_of(found)}", _nearest(found, id, columns))
    return id


def _time_column(columns: _Columns, time: str | None) -> str | None:
    if time is None:
        return None
    found = next((one for one in columns.fields if one.name == time), None)
    if found is None or found.kind != "time" or found.nullable:
        raise Problem("CT1103", f"time={time!r} {_said_of(found)}", _nearest(found, time, columns))
    return time


def _nearest(found: FieldSpec | None, name: str, columns: _Columns) -> str:
    return "" if found else did_you_mean(name, (one.name for one in columns.fields))


def _said_of(found: FieldSpec | None) -> str:
    if found is None:
        return "is no column of the class"
    return f"is {found.kind}{' | None' if found.nullable else ''}"


def _instant(name: str, value: datetime | str | None) -> str | None:
    """A bound of event time as ISO text in UTC; a time without zone is meant in UTC."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as error:
        raise Problem("CT1103", f"{name}={value!r} is no ISO time", f'{name}="2013-01-01"') from error
    return (time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)).isoformat()


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
