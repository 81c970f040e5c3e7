"""``ctloop init --from table``: a model file from a plain table, each guess as a comment; it runs, or asks one question."""

import keyword
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from ctloop.problems import Problem
from ctloop.tables import python_name, read_table

pc: Any = pyarrow.compute
ROWS = 200_000
"""Rows looked at."""
LEVELS = 12
"""Different texts up to which a column is a Literal."""
CLASSES = 20
MANY = 50
"""Rows from which a text that is never twice the same names its row."""
LABEL_NAMES = ("label", "target", "y", "class", "outcome", "churn", "late", "fraud", "default", "survived")
ID_NAMES = re.compile(r"(^|_)(id|uuid|key|guid)$", re.IGNORECASE)
TIME_NAMES = re.compile(r"(time|date|_at|timestamp|departs|when)$", re.IGNORECASE)
LATER = "observed_at"


@dataclass(frozen=True)
class Guess:
    """What a table seems to be."""

    columns: tuple[tuple[str, str, str], ...]
    """Name, annotation with its rule, comment."""
    id: str | None
    time: str | None
    label: tuple[str, str, str]
    classifies: bool
    texts: tuple[str, ...]
    """Columns of words, to be encoded."""
    numbers: tuple[str, ...]
    derived: tuple[tuple[str, str], ...]


def init_from(path: Path, label: str | None = None) -> str:
    """The source of a model file for a CSV or Parquet table.

    Raises:
        Problem: CT1301, the table cannot be read; CT1302, which column is the label is the one question left.
    """
    table = _read(path)
    return _source(path.stem, _guess(table, label), table.num_rows)


def _read(path: Path) -> pa.Table:
    try:
        table = read_table(path)
    except Problem as problem:
        raise Problem("CT1301", problem.cause, problem.hint) from problem
    if not table.num_rows or not table.num_columns:
        raise Problem("CT1301", f"{path} has no rows")
    return table.slice(0, ROWS)


def _guess(table: pa.Table, label: str | None) -> Guess:
    label = _label(table, label)
    names = [name for name in table.column_names if name not in (label, LATER)]
    time = next((name for name in names if _is_time(table, name) and not table.column(name).null_count), None)
    id = _id(table, [name for name in names if name != time])
    plain = [name for name in names if name not in (id, time) and not _is_time(table, name)]
    columns = [_column(table, name, id=id, time=time) for name in names]
    texts = tuple(name for name in plain if _is_text(table, name))
    numbers = tuple(name for name in plain if not _is_text(table, name))
    clock = {f"{time}_hour": f"hour({time})", f"{time}_weekday": f"weekday({time})"} if time else {}
    derived = tuple((name, expression) for name, expression in clock.items() if name not in table.column_names)
    annotation, classifies = _label_annotation(table, label)
    said = (label, annotation, _label_comment(table, label, annotation, late=id is not None))
    return Guess(tuple(columns), id, time, said, classifies, texts, numbers, derived)


def _id(table: pa.Table, names: list[str]) -> str | None:
    """The first column that is named like an id and has no value twice, else the first such text in a table of some size."""
    named = (name for name in names if ID_NAMES.search(name) and _is_code(table, name) and _is_unique(table, name))
    texts = (name for name in names if _is_text(table, name) and _is_unique(table, name))
    return next(named, None) or (next(texts, None) if table.num_rows >= MANY else None)


def _label(table: pa.Table, label: str | None) -> str:
    label = None if label is None else python_name(label)
    if label is None:
        found = [name for name in table.column_names if name.lower() in LABEL_NAMES]
        if len(found) != 1:
            raise Problem("CT1302", f"the columns are {', '.join(table.column_names)}"[:400])
        return found[0]
    if label not in table.column_names:
        raise Problem("CT1302", f"there is no column {label!r}; the columns are {', '.join(table.column_names)}"[:400])
    return label


def _column(table: pa.Table, name: str, *, id: str | None, time: str | None) -> tuple[str, str, str]:
    column = table.column(name)
    if name == id:
        return name, "str" if _is_text(table, name) else "int", "id: one occurrence; every value is different here"
    if name == time:
        return name, "datetime", "event time"
    missing = " | None" if column.null_count else ""
    share = f"{column.null_count / len(column):.1%} missing" if column.null_count else ""
    if _is_text(table, name):
        levels = sorted(one for one in pc.unique(column).to_pylist() if one is not None)
        if len(levels) <= LEVELS:
            return name, f"Literal[{', '.join(repr(one) for one in levels)}]{missing}", "anything else is quarantined"
        return name, f"str{missing}", f"{len(levels)} different texts" + (f", {share}" if share else "")
    if _is_time(table, name):
        return name, f"datetime{missing}", "a second time: only derived columns can use it"
    if pa.types.is_boolean(column.type):
        return name, f"bool{missing}", share
    if column.null_count == len(column):
        return name, "float | None", "nothing seen: drop it, or say what comes"
    kind = "int" if pa.types.is_integer(column.type) else "float"
    bounds = pc.min_max(column)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    rule = " = ct.field(ge=0)" if low is not None and low >= 0 else ""
    return name, f"{kind}{missing}{rule}", f"{low:g} to {high:g} seen" + (f", {share}" if share else "")


def _label_annotation(table: pa.Table, label: str) -> tuple[str, bool]:
    column = table.column(label)
    if pa.types.is_boolean(column.type):
        return "bool", True
    if _is_text(table, label):
        classes = sorted(one for one in pc.unique(column).to_pylist() if one is not None)
        if len(classes) > CLASSES:
            raise Problem("CT1302", f"{label!r} has {len(classes)} different texts: too many classes")
        return f"Literal[{', '.join(repr(one) for one in classes)}]", True
    values = sorted(one for one in pc.unique(column).to_pylist() if one is not None)
    if values == [0, 1]:
        return "Literal[0, 1]", True
    return "float", False


def _label_comment(table: pa.Table, label: str, annotation: str, *, late: bool) -> str:
    """Beside the label: where it comes from, and what a few whole numbers could be instead."""
    said = "its late part: may come hours or weeks after the record, under the same id" if late else "comes in its row"
    column = table.column(label)
    few = sorted(one for one in pc.unique(column).to_pylist() if one is not None)
    if annotation == "float" and len(few) <= CLASSES and pa.types.is_integer(column.type):
        levels = ", ".join(str(one) for one in few)
        return (
            f"{said}; a number to be estimated: write Literal[{levels}] and a Classifier, metric log_loss, for classes"
        )
    return said


def _is_code(table: pa.Table, name: str) -> bool:
    return _is_text(table, name) or pa.types.is_integer(table.column(name).type)


def _is_text(table: pa.Table, name: str) -> bool:
    type = table.column(name).type
    return pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_dictionary(type)


def _is_time(table: pa.Table, name: str) -> bool:
    type = table.column(name).type
    return pa.types.is_timestamp(type) or pa.types.is_date(type)


def _is_unique(table: pa.Table, name: str) -> bool:
    column = table.column(name)
    return not column.null_count and pc.count_distinct(column).as_py() == len(column)


def _source(stem: str, guess: Guess, rows: int) -> str:
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    name = re.sub(r"\W+", "_", plain).strip("_").lower() or "model"
    name = f"m_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name
    record = "".join(part.capitalize() for part in name.split("_")) + "Record"
    keys = "".join(f', {key}="{value}"' for key, value in (("id", guess.id), ("time", guess.time)) if value)
    words = guess.texts
    estimator = f"HistGradientBoosting{'Classifier' if guess.classifies else 'Regressor'}"
    lines = [
        f'"""Made by ctloop init from {stem} ({rows:,} rows looked at); every guess is a comment."""',
        "",
        *(["from datetime import datetime"] if any("datetime" in one[1] for one in guess.columns) else []),
        *(["from typing import Literal"] if any("Literal" in one[1] for one in (*guess.columns, guess.label)) else []),
        "",
        "from sklearn.compose import make_column_transformer",
        f"from sklearn.ensemble import {estimator}",
        "from sklearn.pipeline import make_pipeline",
        "from sklearn.preprocessing import OneHotEncoder",
        "",
        "import ctloop as ct",
        "",
        "",
        f"class {record}(ct.Record{keys}):",
        *(["    # no id column: the row's digest names it, so a label must come in its row"] if not guess.id else []),
        *(["    # no time column: order of arrival is all there is"] if not guess.time else []),
        *(f"    {one}: {kind}{f'  # {comment}' if comment else ''}" for one, kind, comment in guess.columns),
        *(f'    {one}: int = ct.derive("{expression}")' for one, expression in guess.derived),
        f"    {guess.label[0]}: {guess.label[1]} = ct.label()  # {guess.label[2]}",
        "",
        "",
        f'@ct.model({record}, metric="{"log_loss" if guess.classifies else "rmse"}")',
        f"def {name}(X, y, *, learning_rate: float = ct.log(0.02, 0.3)):",
        '    words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)',
        f'    columns = make_column_transformer((words, {list(words)!r}), remainder="passthrough")'.replace("'", '"'),
        f"    return make_pipeline(columns, {estimator}(learning_rate=learning_rate)).fit(X, y)",
        "",
    ]
    return "\n".join(lines)
