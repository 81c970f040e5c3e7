"""Derived columns: one expression each, with one meaning over NumPy columns (training) and over ONNX nodes (serving).

The meaning is written once, in operators that both sides have under ONNX's names; only how an operator is carried out differs.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ctloop.problems import Problem, did_you_mean

Kind = Literal["integer", "number", "boolean", "time"]
Array = npt.NDArray[Any]
T = TypeVar("T")

MISSING_TIME = int(np.iinfo(np.int64).min)
"""The time that says "no time" where a column cannot be null (ONNX)."""

_LARGEST = float(np.finfo(np.float32).max)
_MINUTE, _HOUR, _DAY = 60_000_000, 3_600_000_000, 86_400_000_000
_MOST_NODES = 100


@dataclass(frozen=True)
class Column:
    """A column of the record."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class Constant:
    """A number in the text."""

    value: float
    kind: Kind


@dataclass(frozen=True)
class Call:
    """A function or operator over others."""

    name: str
    args: tuple["Node", ...]
    kind: Kind


Node = Column | Constant | Call


@dataclass(frozen=True)
class Expression:
    """A parsed expression; ``numbers`` and ``times`` are the columns it reads."""

    text: str
    root: Node
    numbers: tuple[str, ...]
    times: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """What it gives: integer, number or boolean."""
        return self.root.kind


class Algebra(Protocol[T]):
    """How operators are carried out: on arrays, or as nodes of a graph."""

    def number(self, name: str) -> T:
        """A numeric column as float64 rounded through float32, missing is NaN."""
        ...

    def time(self, name: str) -> T:
        """A time column as int64 microseconds since the epoch, UTC; MISSING_TIME where missing."""
        ...

    def constant(self, value: float | int) -> T:
        """int64 for an int, float64 for a float."""
        ...

    def apply(self, operator: str, *args: T) -> T:
        """An ONNX operator of opset 11 (Double and Long are casts)."""
        ...


_TIME_PARTS = ("minute_of_day", "hour", "weekday", "day", "month", "year")
_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_ARITY = {"abs": 1, "log1p": 1, "min": 2, "max": 2}


def parse(text: str, kinds: Mapping[str, str]) -> Expression:
    """Read an expression; ``kinds`` are the record's columns (label and strings included, so that errors can say so).

    >>> parse("minute_of_day(departs) / 60", {"departs": "time"}).kind
    'number'

    Raises:
        Problem: CT1106.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise Problem("CT1106", f"{text!r} is not an expression: {error}") from error
    if sum(1 for _ in ast.walk(tree)) > _MOST_NODES:
        raise Problem("CT1106", f"{text[:60]!r}... is too long", "Split it, or put the step into the pipeline.")
    reader = _Reader(text, kinds)
    root = reader.read(tree)
    if root.kind == "time" or isinstance(root, Constant):
        raise Problem("CT1106", f"{text!r} computes nothing", "e.g. minute_of_day(departs) or distance / 1000")
    columns = sorted(set(reader.columns), key=lambda column: column.name)
    return Expression(
        text,
        root,
        numbers=tuple(one.name for one in columns if one.kind != "time"),
        times=tuple(one.name for one in columns if one.kind == "time"),
    )


class _Reader:
    """Turns Python's tree into ours, checking kinds on the way."""

    def __init__(self, text: str, kinds: Mapping[str, str]) -> None:
        self.text = text
        self.kinds = kinds
        self.columns: list[Column] = []

    def read(self, node: ast.AST) -> Node:
        """One node and all below it."""
        match node:
            case ast.Name(id=name):
                return self._column(name)
            case ast.Constant(value=bool() | str() | None):
                raise self._problem(f"{ast.unparse(node)} is not a number")
            case ast.Constant(value=int() | float() as value):
                return Constant(value, "integer" if isinstance(value, int) else "number")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._call("-", Constant(0, "integer"), self.read(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return self._call(_OPERATORS[type(op)], self.read(left), self.read(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
                return self._call(_OPERATORS[type(op)], self.read(left), self.read(right))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self._function(name, [self.read(one) for one in args])
            case _:
                raise self._problem(f"{ast.unparse(node)} is not in the language of derived columns")

    def _column(self, name: str) -> Column:
        kind = self.kinds.get(name)
        if kind is None:
            raise self._problem(f"there is no column {name!r}", did_you_mean(name, self.kinds))
        if kind not in ("integer", "number", "time"):
            raise self._problem(f"column {name!r} is of kind {kind}", "Only numbers and times can be computed with.")
        column = Column(name, kind)
        self.columns.append(column)
        return column

    def _function(self, name: str, args: list[Node]) -> Call:
        if name in _TIME_PARTS:
            if len(args) != 1 or args[0].kind != "time":
                raise self._problem(f"{name}(...) takes one time column")
            return Call(name, tuple(args), "integer")
        if name not in _ARITY:
            known = ", ".join((*_TIME_PARTS, *_ARITY))
            nearest = did_you_mean(name, (*_TIME_PARTS, *_ARITY))
            raise self._problem(f"there is no function {name!r}", nearest or f"Known: {known}")
        if len(args) != _ARITY[name]:
            raise self._problem(f"{name}(...) takes {_ARITY[name]} argument(s)")
        return self._call(name, *args)

    def _call(self, name: str, *args: Node) -> Call:
        if wrong := next((one for one in args if one.kind not in ("integer", "number")), None):
            raise self._problem(f"{name} needs numbers, and got a {wrong.kind}")
        if name in ("<", "<=", ">", ">=", "==", "!="):
            return Call(name, args, "boolean")
        whole = all(one.kind == "integer" for one in args) and name not in ("/", "log1p")
        return Call(name, args, "integer" if whole else "number")

    def _problem(self, cause: str, hint: str = "") -> Problem:
        return Problem("CT1106", f"{self.text!r}: {cause}", hint)


def carry_out(expression: Expression, algebra: Algebra[T]) -> T:
    """The column as float64; missing (NaN) where an operand is, and where the result is not finite in float32."""
    value = _Meaning(algebra).of(expression.root)
    too_large = algebra.apply("Greater", algebra.apply("Abs", value), algebra.constant(_LARGEST))
    return algebra.apply("Where", too_large, algebra.constant(float("nan")), value)


class _Meaning(Generic[T]):
    """What each node means, in operators of the algebra."""

    def __init__(self, algebra: Algebra[T]) -> None:
        self.algebra = algebra
        self.do = algebra.apply

    def of(self, node: Node) -> T:
        """The float64 value of a node that is no time."""
        if isinstance(node, Constant):
            return self.algebra.constant(float(node.value))
        if isinstance(node, Column):
            return self.algebra.number(node.name)
        if node.name in _TIME_PARTS:
            return self._time_part(node)
        args = [self.of(one) for one in node.args]
        plain = {"+": "Add", "-": "Sub", "*": "Mul", "/": "Div", "abs": "Abs"}.get(node.name)
        if plain:
            return self.do(plain, *args)
        if node.name == "log1p":
            return self.do("Log", self.do("Add", args[0], self.algebra.constant(1.0)))
        return self._known(self._compared(node.name, *args), *args)

    def _compared(self, name: str, a: T, b: T) -> T:
        if name in ("min", "max"):
            first = self.do("Less", *((a, b) if name == "min" else (b, a)))
            return self.do("Where", first, a, b)
        operators = {"<": "Less", ">=": "Less", ">": "Greater", "<=": "Greater", "==": "Equal", "!=": "Equal"}
        truth = self.do(operators[name], a, b)
        # The opposite is negated: LessOrEqual came with opset 12, and converters may settle on 11. NaN goes in _known.
        return self.do("Double", self.do("Not", truth) if name in (">=", "<=", "!=") else truth)

    def _known(self, value: T, a: T, b: T) -> T:
        """The value, or NaN where one of its operands is (comparisons would say False)."""
        unknown = self.do("Or", self.do("IsNaN", a), self.do("IsNaN", b))
        return self.do("Where", unknown, self.algebra.constant(float("nan")), value)

    def _time_part(self, call: Call) -> T:
        (column,) = call.args
        assert isinstance(column, Column)
        raw = self.algebra.time(column.name)
        missing = self.do("Equal", raw, self.algebra.constant(MISSING_TIME))
        time = self.do("Where", missing, self.algebra.constant(0), raw)
        part = self.do("Double", self._part(call.name, time))
        return self.do("Where", missing, self.algebra.constant(float("nan")), part)

    def _part(self, name: str, time: T) -> T:
        within_day = self._modulo(time, _DAY)
        match name:
            case "minute_of_day":
                return self._floor(within_day, _MINUTE)
            case "hour":
                return self._floor(within_day, _HOUR)
            case "weekday":  # 1970-01-01 was a Thursday
                return self._modulo(self._plus(self._floor(time, _DAY), 3), 7)
            case _:
                return self._civil(name, self._floor(time, _DAY))

    def _civil(self, name: str, days: T) -> T:
        """Year, month and day from days since the epoch; Howard Hinnant's civil_from_days (chrono-compatible dates)."""
        shifted = self._plus(days, 719_468)  # days since 0000-03-01
        era = self._floor(shifted, 146_097)
        of_era = self._modulo(shifted, 146_097)
        leaps = self.do(
            "Sub",
            self.do("Sub", self._floor(of_era, 1_460), self._floor(of_era, 36_524)),
            self._floor(of_era, 146_096),
        )
        year_of_era = self._floor(self.do("Sub", of_era, leaps), 365)
        before = self.do(
            "Sub",
            self.do("Add", self._times(year_of_era, 365), self._floor(year_of_era, 4)),
            self._floor(year_of_era, 100),
        )
        day_of_year = self.do("Sub", of_era, before)
        shifted_month = self._floor(self._plus(self._times(day_of_year, 5), 2), 153)  # 0 is March
        if name == "day":
            start = self._floor(self._plus(self._times(shifted_month, 153), 2), 5)
            return self._plus(self.do("Sub", day_of_year, start), 1)
        month = self._plus(self._modulo(self._plus(shifted_month, 2), 12), 1)
        if name == "month":
            return month
        year = self.do("Add", year_of_era, self._times(era, 400))
        early = self.do("Long", self.do("Less", month, self.algebra.constant(3)))
        return self.do("Add", year, early)

    def _plus(self, value: T, number: int) -> T:
        return self.do("Add", value, self.algebra.constant(number))

    def _times(self, value: T, number: int) -> T:
        return self.do("Mul", value, self.algebra.constant(number))

    def _modulo(self, value: T, number: int) -> T:
        return self.do("Mod", value, self.algebra.constant(number))

    def _floor(self, value: T, number: int) -> T:
        """Integer division rounding down: ONNX divides towards zero, so the remainder goes first."""
        exact = self.do("Sub", value, self._modulo(value, number))
        return self.do("Div", exact, self.algebra.constant(number))


def _divide(a: Array, b: Array) -> Array:
    return a // b if np.issubdtype(np.result_type(a, b), np.integer) else a / b


def _double(a: Array) -> Array:
    return np.asarray(a).astype(np.float64)


def _long(a: Array) -> Array:
    return np.asarray(a).astype(np.int64)


_NUMPY: dict[str, Callable[..., Array]] = {
    "Abs": np.abs,
    "Add": np.add,
    "Div": _divide,
    "Double": _double,
    "Equal": np.equal,
    "Greater": np.greater,
    "IsNaN": np.isnan,
    "Less": np.less,
    "Log": np.log,
    "Long": _long,
    "Mod": np.mod,
    "Mul": np.multiply,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "Sub": np.subtract,
    "Where": np.where,
}


class OnArrays:
    """Operators on NumPy arrays; ``columns`` are numbers as float64 (NaN) and times as int64 (MISSING_TIME)."""

    def __init__(self, columns: Mapping[str, Array]) -> None:
        self.columns = columns

    def number(self, name: str) -> Array:
        return self.columns[name].astype(np.float32).astype(np.float64)

    def time(self, name: str) -> Array:
        return self.columns[name]

    def constant(self, value: float | int) -> Array:
        return np.asarray(value, dtype=np.int64 if isinstance(value, int) else np.float64)

    def apply(self, operator: str, *args: Array) -> Array:
        with np.errstate(all="ignore"):
            return _NUMPY[operator](*args)


class OnGraph:
    """Operators as ONNX nodes; ``nodes`` and ``constants`` grow, names begin with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def number(self, name: str) -> str:
        return self.apply("Double", name)

    def time(self, name: str) -> str:
        return name

    def constant(self, value: float | int) -> str:
        from onnx import numpy_helper

        array = np.asarray([value], dtype=np.int64 if isinstance(value, int) else np.float64)
        name = f"{self.prefix}/c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def apply(self, operator: str, *args: str) -> str:
        return self._add(operator, args, f"{self.prefix}/{len(self.nodes)}")

    def column(self, value: str, name: str) -> None:
        """End in the float32 column of that name."""
        self._add("Float", (value,), name)

    def _add(self, operator: str, args: Sequence[str], output: str) -> str:
        from onnx import TensorProto, helper

        types = {"Double": TensorProto.DOUBLE, "Long": TensorProto.INT64, "Float": TensorProto.FLOAT}
        if operator in types:
            node = helper.make_node("Cast", list(args), [output], name=output, to=types[operator])
        else:
            node = helper.make_node(operator, list(args), [output], name=output)
        self.nodes.append(node)
        return output
