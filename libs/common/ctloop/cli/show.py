"""How the command speaks: data on stdout, words on stderr, problems in four parts, exit codes that mean something."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ctloop.problems import Exit, Problem


def data(value: Any, *, as_json: bool) -> None:
    """One thing: JSON, or ``name: value`` lines."""
    if as_json:
        print(json.dumps(value, default=str, ensure_ascii=False))
        return
    for name, one in value.items():
        print(f"{name:<18} {short(one)}")


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Many things: JSON Lines, or aligned columns."""
    found = list(rows)
    if as_json:
        for row in found:
            print(json.dumps(row, default=str, ensure_ascii=False))
        return
    cells = [[name.upper() for name in columns], *([short(row.get(name)) for name in columns] for row in found)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def short(value: Any) -> str:
    """A value in a cell."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | dict | tuple):
        return json.dumps(value, default=str)[:60]
    return str(value)


def say(text: str) -> None:
    """A word to the user, beside the data."""
    print(text, file=sys.stderr)


def fail(problem: Problem, *, as_json: bool = False) -> int:
    """A problem on stderr; its exit code."""
    print(json.dumps(problem.to_json()) if as_json else problem.text(), file=sys.stderr)
    return int(problem.exit_code)


def tree(node: Mapping[str, Any], depth: int = 0) -> None:
    """A condition with each node's value."""
    value = node.get("value")
    shown = (
        {None: "unknown", True: "yes", False: "no"}[value]
        if value is None or value is True or value is False
        else short(value)
    )
    if node.get("op") != "number":
        note = f"   ({node['note']})" if node.get("note") else ""
        print(f"{'  ' * (depth + 1)}{node.get('text')} = {shown}{note}")
    for one in node.get("args", ()):
        tree(one, depth + 1)


__all__ = ["Exit", "data", "fail", "say", "short", "table", "tree"]
