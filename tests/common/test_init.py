"""A plain table becomes a model file that compiles and fits, or one question."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

from ctloop import columns
from ctloop.bundle import load_model, unpack
from ctloop.compiler import check, compile_file
from ctloop.init import init_from
from ctloop.problems import Problem

ROWS = 200
NUMBERS = np.arange(ROWS)
TABLES = {
    "everything": {
        "visit_id": [f"v{one}" for one in range(ROWS)],
        "at": pa.array(NUMBERS * 3_600_000_000, pa.timestamp("us")),
        "colour": np.where(NUMBERS % 3 == 0, "red", "blue"),
        "size": NUMBERS / 7,
        "late": NUMBERS % 2 == 0,
    },
    "no-time-no-id": {
        "size": NUMBERS / 7,
        "colour": np.where(NUMBERS % 3 == 0, "red", "blue"),
        "target": NUMBERS * 1.5,
    },
    "classes-as-words": {"size": NUMBERS / 7, "label": np.where(NUMBERS % 5 == 0, "often", "rarely")},
}


@pytest.mark.parametrize("name", TABLES)
def test_the_file_compiles_and_fits(name: str, tmp_path: Path) -> None:
    """What init writes goes through check and learns from the table it was made of."""
    table = pa.table(TABLES[name])
    csv.write_csv(table, tmp_path / "visits.csv")
    file = tmp_path / f"{name.replace('-', '_')}_visits.py"  # loading leaves a module of that name in this process
    file.write_text(init_from(tmp_path / "visits.csv"))
    compiled = compile_file(file)[0]
    unpack(compiled.bundle, tmp_path / "bundle")
    model = load_model(tmp_path / "bundle", compiled.manifest.module, compiled.manifest.function)
    rows = columns.conform(csv.read_csv(tmp_path / "visits.csv"), compiled.manifest.record)
    classes = columns.classes(rows, compiled.manifest.record)
    target = columns.target(rows, compiled.manifest.record, classes)
    fitted = model.fit(columns.to_frame(rows, compiled.manifest.record), target)
    assert len(fitted.predict(columns.to_frame(rows, compiled.manifest.record))) == ROWS


ODD = {
    "sepal length (cm)": ("sepal length (cm),class,y\n5.1,a,0\n4.9,b,1\n", ("sepal_length_cm: float", "class_: Literal")),
    "missing words": ("a,b,y\n1,x,0\n2,,1\n3,z,1\n", ("b: Literal['x', 'z'] | None",)),
    "semicolons": ("a;b;y\n1;2;0\n2;3;1\n", ("a: int", "b: int")),
    "codes": ("zip,b,y\n02134,1,0\n12345,2,1\n", ("zip: Literal['02134', '12345']",)),
    "nothing seen": ("a,b,y\n1,,0\n2,,1\n", ("b: float | None",)),
    "a time that may be missing": ("a,at,y\n1,2024-01-01,0\n2,,1\n", ("at: datetime | None",)),
    "a name that is taken": (
        "at,at_hour,y\n2024-01-01 00:00:00,3,0\n2024-01-02 00:00:00,4,1\n", ("at_hour: int", "at_weekday: int = ct.derive")
    ),
    "words over lines": ('a,b,y\n1,"l\nm",0\n2,"q""",1\n', ("b: Literal['l\\nm', 'q\"']",)),
    "few whole numbers": ("a,y\n1,0\n2,1\n3,2\n", ("y: float = ct.label()", "Literal[0, 1, 2]")),
    "spec": ("spec,b,y\n1,2,0\n2,3,1\n", ("spec_: int",)),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_tables_end_in_a_file_that_compiles(name: str, tmp_path: Path) -> None:
    """Names that are no Python, missing words, other delimiters, codes with zeros in front: the file says what it is."""
    text, wanted = ODD[name]
    table = tmp_path / "données-1 été.csv"
    table.write_text(text)
    source = init_from(table)
    assert [one for one in wanted if one not in source] == []
    (tmp_path / "odd_table.py").write_text(source)
    assert check(tmp_path / "odd_table.py").ok


def test_a_text_that_is_never_twice_the_same_is_the_id(tmp_path: Path) -> None:
    """Learning from it would be learning the rows by heart."""
    csv.write_csv(
        pa.table({"size": NUMBERS, "flight": [f"n{one}" for one in NUMBERS], "y": NUMBERS % 2}), tmp_path / "t.csv"
    )
    assert 'id="flight"' in init_from(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,a,y\n1,2,0\n", "'a' comes twice"),
        ("a b,a-b,y\n1,2,0\n", "have one name"),
        ("a,y\n\xe9t\xe9,1\n", "UTF-8"),
    ],
)
def test_a_table_that_cannot_be_is_a_problem(text: str, said: str, tmp_path: Path) -> None:
    """Two columns of one name, bytes that are no UTF-8."""
    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(Problem, match="CT1301") as refused:
        init_from(tmp_path / "t.csv")
    assert said in refused.value.cause


def test_one_question_is_left(tmp_path: Path) -> None:
    """Without a column that looks like a label, init asks which it is, and names the columns."""
    csv.write_csv(pa.table({"a": [1, 2], "b": [3, 4]}), tmp_path / "t.csv")
    with pytest.raises(Problem) as asked:
        init_from(tmp_path / "t.csv")
    assert asked.value.code == "CT1302"
    assert "a, b" in asked.value.cause
