"""A plain table becomes a model file that compiles and fits, or one question."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

from ctloop import columns
from ctloop.bundle import load_model, unpack
from ctloop.compiler import compile_file
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


def test_one_question_is_left(tmp_path: Path) -> None:
    """Without a column that looks like a label, init asks which it is, and names the columns."""
    csv.write_csv(pa.table({"a": [1, 2], "b": [3, 4]}), tmp_path / "t.csv")
    with pytest.raises(Problem) as asked:
        init_from(tmp_path / "t.csv")
    assert asked.value.code == "CT1302"
    assert "a, b" in asked.value.cause
