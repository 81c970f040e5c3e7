"""The one small language of gates, retrain, rollback and why: a subset of Python's expressions, never evaluated as code.

Three-valued after Kleene: what is not known does not fire and is shown as unknown.
"""

import ast
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ctloop.events.values import EvaluatedNode
from ctloop.problems import did_you_mean

Value = float | bool | str | None
COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
CALLS = ("psi",)
LONGEST = 1000
ALLOWED = "names, numbers, champion.NAME, psi('column'), + - * /, < <= > >= == !=, and, or, not"
NO_CHAMPION = "no champion yet"


class ConditionError(ValueError):
    """A condition that does not parse or names what does not exist; ``column`` counts from 1, ``hint`` may be empty."""

    def __init__(self, message: str, text: str, column: int = 1, hint: str = "") -> None:
        super().__init__(f"{message}, at column {column} of {text!r}")
        self.message, self.text, self.column, self.hint = message, text, column, hint


@dataclass(frozen=True)
class Node:
    """A condition's tree: an operation over nodes, a name, or a number."""

    op: str
    """name, number, not, and, or, neg, or an operator's sign."""
    text: str
    args: tuple["Node", ...] = ()
    value: float | str | None = None
    """The number, or the name."""

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(_plain(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Node":
        """The node written by to_json."""
        return _node(json.loads(text))


def compile_condition(text: str, known: Collection[str], columns: Collection[str] = ()) -> Node:
    """Parse a condition over known names; ``columns`` are those psi('column') may name.

    Raises:
        ConditionError: it does not parse, uses more than the language has, or names what does not exist.

    >>> compile_condition("auc >= champion.auc - 0.01", {"auc"}).op
    '>='
    """
    if len(text) > LONGEST:
        raise ConditionError(f"longer than {LONGEST} characters", text[:40])
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConditionError("does not parse", text, getattr(error, "offset", None) or 1) from error
    psi = frozenset(f"psi('{one}')" for one in columns)
    return _compile(tree.body, text.strip(), frozenset(known) | psi)


def names(node: Node) -> frozenset[str]:
    """Every name a condition needs, as in ``champion.auc`` or ``psi('temp')``."""
    own = frozenset({str(node.value)}) if node.op == "name" else frozenset[str]()
    return own.union(*(names(one) for one in node.args)) if node.args else own


def evaluate(node: Node, values: Mapping[str, Value]) -> EvaluatedNode:
    """The tree with each node's value; None is unknown. A name that is not given is unknown."""
    args = tuple(evaluate(one, values) for one in node.args)
    value, note = _value(node, [one.value for one in args], values)
    inherited = next((one.note for one in args if value is None and one.note), "")
    return EvaluatedNode(text=node.text, op=node.op, value=value, note=note or inherited, args=args)


def fires(evaluated: EvaluatedNode) -> bool:
    """Whether a condition holds; what is unknown does not fire."""
    return evaluated.value is True


def render(evaluated: EvaluatedNode, depth: int = 0) -> list[str]:
    """A tree of lines for people."""
    shown = "unknown" if evaluated.value is None else _shown(evaluated.value)
    note = f"   ({evaluated.note})" if evaluated.note else ""
    own = f"{'  ' * depth}{evaluated.text} = {shown}{note}" if evaluated.op != "number" else ""
    below = [line for one in evaluated.args for line in render(one, depth + 1)]
    return [own, *below] if own else below


def _shown(value: float | bool | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _value(node: Node, args: Sequence[Value], values: Mapping[str, Value]) -> tuple[Value, str]:
    if node.op == "number":
        return node.value, ""
    if node.op == "name":
        found = values.get(str(node.value))
        if isinstance(found, float) and not math.isfinite(found):
            return None, "not finite"
        absent = NO_CHAMPION if found is None and str(node.value).startswith("champion.") else ""
        return found, absent
    if node.op in ("and", "or", "not"):
        return _logic(node.op, args), ""
    if any(one is None for one in args):
        return None, ""
    return _number(node.op, args)


def _logic(op: str, args: Sequence[Value]) -> bool | None:
    truths = [None if one is None else bool(one) for one in args]
    if op == "not":
        return None if truths[0] is None else not truths[0]
    decisive = op == "or"
    if decisive in truths:
        return decisive
    return None if None in truths else not decisive


def _number(op: str, args: Sequence[Value]) -> tuple[Value, str]:
    numbers = [float(one) for one in args if one is not None]
    if op == "neg":
        return -numbers[0], ""
    compare = _COMPARE.get(op)
    if compare is not None:
        return all(compare(left, right) for left, right in pairwise(numbers)), ""
    left, right = numbers
    if op == "/" and right == 0:
        return None, "division by zero"
    result = {"+": left + right, "-": left - right, "*": left * right, "/": left / right if right else math.nan}[op]
    return (result, "") if math.isfinite(result) else (None, "not finite")


_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def _compile(tree: ast.expr, text: str, known: frozenset[str]) -> Node:  # noqa: C901 one case per form of the language
    said = ast.get_source_segment(text, tree) or text

    def inside(one: ast.expr) -> Node:
        return _compile(one, text, known)

    match tree:
        case ast.BoolOp(op=op, values=values):
            return Node("and" if isinstance(op, ast.And) else "or", said, tuple(inside(one) for one in values))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return Node("not", said, (inside(operand),))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return Node("neg", said, (inside(operand),))
        case ast.BinOp(op=op, left=left, right=right) if type(op) in ARITHMETIC:
            return Node(ARITHMETIC[type(op)], said, (inside(left), inside(right)))
        case ast.Compare(ops=ops, left=left, comparators=rights) if all(type(op) in COMPARISONS for op in ops):
            return _comparison(said, ops, [inside(one) for one in (left, *rights)])
        case ast.Constant(value=bool() | int() | float() as number):
            return Node("number", said, value=float(number))
        case ast.Name() | ast.Attribute() | ast.Call():
            return Node("name", said, value=_name(tree, text, known))
        case _:
            raise ConditionError(f"{said[:40]!r} is not in the language ({ALLOWED})", text, tree.col_offset + 1)


def _comparison(said: str, ops: Sequence[ast.cmpop], sides: Sequence[Node]) -> Node:
    signs = [COMPARISONS[type(op)] for op in ops]
    pairs = [
        Node(sign, f"{left.text} {sign} {right.text}", (left, right))
        for sign, left, right in zip(signs, sides, sides[1:], strict=False)
    ]
    return pairs[0] if len(pairs) == 1 else Node("and", said, tuple(pairs))


def _name(tree: ast.expr, text: str, known: frozenset[str]) -> str:
    name = _dotted(tree, text)
    if name.removeprefix("champion.") not in known:
        last = name.removeprefix("champion.")
        listed = ", ".join(sorted(known)) or "none"
        hint = did_you_mean(last, known)
        raise ConditionError(f"{last!r} is no name here; known are {listed}", text, tree.col_offset + 1, hint)
    return name


def _dotted(tree: ast.expr, text: str) -> str:
    match tree:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id="champion"), attr=name):
            return f"champion.{name}"
        case ast.Call(func=ast.Name(id=function), args=[ast.Constant(value=str() as argument)], keywords=[]) if (
            function in CALLS
        ):
            return f"{function}('{argument}')"
        case _:
            said = ast.get_source_segment(text, tree) or text
            hint = did_you_mean(said.partition("(")[0].partition(".")[0], ("champion", *CALLS))
            raise ConditionError(f"{said[:40]!r} is no name ({ALLOWED})", text, tree.col_offset + 1, hint)


def _plain(node: Node) -> dict[str, object]:
    return {"op": node.op, "text": node.text, "value": node.value, "args": [_plain(one) for one in node.args]}


def _node(plain: Mapping[str, object]) -> Node:
    args = plain["args"]
    value = plain["value"]
    assert isinstance(args, list)
    assert value is None or isinstance(value, float | int | str)
    return Node(
        str(plain["op"]), str(plain["text"]), tuple(_node(one) for one in args),
        float(value) if isinstance(value, int) else value,
    )  # fmt: skip
