"""A model file becomes the same manifest and the same bytes each time; each mistake becomes one finding with its code."""

import io
import zipfile
from pathlib import Path

import pytest

from ctloop import bundle
from ctloop.compiler import check, compile_file
from ctloop.events.manifest import Manifest
from ctloop.problems import CATALOGUE, Problem

FLIGHTS = Path(__file__).parents[3] / "examples" / "flights" / "flights.py"

HEAD = """
from datetime import datetime
from typing import Literal
import ctloop as ct
"""
RECORD = """
class Visit(ct.Record, id="visit", time="at"):
    visit: str
    at: datetime
    age: float | None
    back: bool = ct.label()
"""
MODEL = """
@ct.model(Visit)
def visits(X, y, *, depth: int = ct.integer(2, 8)):
    return None
"""


def written(folder: Path, *parts: str, name: str = "my_model.py") -> Path:
    """A model file of these parts."""
    path = folder / name
    path.write_text("\n".join(parts))
    return path


def test_the_flights_file() -> None:
    """The example compiles without a finding into what the services need, and is at most 40 lines."""
    checked = check(FLIGHTS)
    assert checked.findings == ()
    (manifest,) = checked.manifests
    assert (manifest.model, manifest.record.dataset, manifest.task) == ("flights", "flight", "classification")
    assert (manifest.metric, manifest.report, manifest.trials) == ("log_loss", ("auc",), 6)
    assert [one.text for one in manifest.gates] == ["auc >= champion.auc - 0.01", "p99_ms <= 20"]
    assert [one.name for one in manifest.record.inputs][-2:] == ["minute", "weekday"]
    assert "departs" not in [one.name for one in manifest.record.inputs]
    assert len(FLIGHTS.read_text().splitlines()) <= 40


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    """Digest of the manifest and bytes of the bundle depend on the source alone, not on folder, time or where it is stored."""
    made = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        made += compile_file(written(folder, HEAD, RECORD, MODEL))
    assert made[0] == made[1]
    moved = made[0].manifest.bundle.model_copy(update={"uri": "s3://elsewhere/x.zip"})
    assert made[0].manifest.model_copy(update={"bundle": moved}).digest == made[1].manifest.digest
    assert Manifest.model_validate_json(
        made[0].manifest.canonical().replace(b'"format":"zip"', b'"format":"zip","uri":""')
    )
    other = compile_file(written(tmp_path, HEAD, RECORD, MODEL, "# a comment"))
    assert other[0].manifest.digest != made[0].manifest.digest


def test_modules_beside_the_file_travel_with_it(tmp_path: Path) -> None:
    """What the file imports from its folder is in the bundle, transitively and as packages; the rest is not."""
    (tmp_path / "encoders.py").write_text("from scaling.rules import FACTOR")
    (tmp_path / "unrelated.py").write_text("raise RuntimeError")
    (tmp_path / "scaling").mkdir()
    (tmp_path / "scaling" / "__init__.py").write_text("")
    (tmp_path / "scaling" / "rules.py").write_text("FACTOR = 2")
    (made,) = compile_file(written(tmp_path, "import encoders", HEAD, RECORD, MODEL))
    names = zipfile.ZipFile(io.BytesIO(made.bundle)).namelist()
    assert names == ["encoders.py", "my_model.py", "scaling/__init__.py", "scaling/rules.py"]


def test_several_models_in_one_file(tmp_path: Path) -> None:
    """Each decorated function is a model of its own over one bundle."""
    second = MODEL.replace("def visits", "def again")
    made = compile_file(written(tmp_path, HEAD, RECORD, MODEL, second))
    assert [one.manifest.model for one in made] == ["visits", "again"]
    assert made[0].bundle == made[1].bundle


def test_a_model_without_label_is_watched(tmp_path: Path) -> None:
    """No label is a warning, and the file compiles."""
    checked = check(written(tmp_path, HEAD, RECORD.replace("back: bool = ct.label()", "back: bool"), MODEL))
    assert checked.ok and [one.code for one in checked.findings] == ["CT1210"]


def test_secrets_do_not_reach_the_users_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child that imports the file has none of our environment."""
    monkeypatch.setenv("CTLOOP_POSTGRES__DSN", "postgresql://secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    spy = "import os\nif any('secret' in one for one in os.environ.values()): raise ValueError('seen')"
    assert check(written(tmp_path, spy, HEAD, RECORD, MODEL)).ok


BROKEN: dict[str, tuple[str, str, str]] = {
    "syntax": ("CT1002", "def broken(:", ""),
    "raises": ("CT1004", "raise ValueError('no')", "ValueError: no"),
    "missing module": ("CT1004", "import nothing_of_that_name", "nothing_of_that_name"),
    "exit": ("CT1006", "raise SystemExit(3)", "exit(3)"),
    "hard exit": ("CT1006", "import os; os._exit(9)", "exit code 9"),
    "no model": ("CT1007", HEAD + RECORD, "no function"),
    "type": ("CT1101", HEAD + RECORD.replace("float | None", "list[int]") + MODEL, "'age'"),
    "spec": ("CT1107", HEAD + RECORD.replace("age", "spec") + MODEL, "'spec'"),
    "two types": ("CT1101", HEAD + RECORD.replace("float | None", "float | str") + MODEL, "'age'"),
    "mixed levels": ("CT1101", HEAD + RECORD.replace("float | None", 'Literal[1, "a"]') + MODEL, "levels"),
    "unknown name": (
        "CT1101",
        "from __future__ import annotations\n" + HEAD + RECORD.replace("float", "nowhere") + MODEL,
        "nowhere",
    ),
    "id": ("CT1102", HEAD + RECORD.replace('id="visit"', 'id="nr"') + MODEL, "no column"),
    "time": ("CT1103", HEAD + RECORD.replace('time="at"', 'time="age"') + MODEL, "number"),
    "two labels": ("CT1104", HEAD + RECORD + "    more: bool = ct.label()\n" + MODEL, "'more'"),
    "rule": ("CT1105", HEAD + RECORD + "    word: str = ct.field(gt=1)\n" + MODEL, "'word'"),
    "derived": ("CT1106", HEAD + RECORD + "    m: int = ct.derive('hour(age)')\n" + MODEL, "hour"),
    "label in derived": ("CT1106", HEAD + RECORD + "    m: float = ct.derive('back * 2')\n" + MODEL, "label"),
    "derived kind": ("CT1106", HEAD + RECORD + "    m: int = ct.derive('age / 2')\n" + MODEL, "integer"),
    "nothing to learn": ("CT1108", HEAD + RECORD.replace("    age: float | None\n", "") + MODEL, "Visit"),
    "default": ("CT1109", HEAD + RECORD + "    word: str = 'x'\n" + MODEL, "'word'"),
    "arguments": ("CT1201", HEAD + RECORD + "@ct.model(Visit)\ndef visits(X): pass", "(X, y)"),
    "no default": ("CT1201", HEAD + RECORD + "@ct.model(Visit)\ndef visits(X, y, *, depth): pass", "depth"),
    "range": ("CT1202", HEAD + RECORD + MODEL.replace("(2, 8)", "(8, 2)"), "8, 2"),
    "log of zero": ("CT1202", HEAD + RECORD + MODEL.replace("integer(2, 8)", "log(0, 1)"), "0, 1"),
    "metric": ("CT1203", HEAD + RECORD + MODEL.replace("(Visit)", "(Visit, metric='rmse')"), "rmse"),
    "metric without loss": ("CT1204", HEAD + RECORD + MODEL.replace("(Visit)", "(Visit, metric='auc')"), "auc"),
    "report": ("CT1203", HEAD + RECORD + MODEL.replace("(Visit)", "(Visit, report=['nps'])"), "nps"),
    "budget": ("CT1205", HEAD + RECORD + MODEL.replace("(Visit)", "(Visit, budget='lots')"), "lots"),
    "time limit": ("CT1205", HEAD + RECORD + MODEL.replace("(Visit)", "(Visit, time_limit='soon')"), "soon"),
    "no record": ("CT1205", HEAD + RECORD + MODEL.replace("(Visit)", "(dict)"), "dict"),
    "condition": ("CT1206", HEAD + RECORD + MODEL + "visits.gate('auc >=')", "auc >="),
    "condition's name": ("CT1206", HEAD + RECORD + MODEL + "visits.gate('nps > 1')", "nps"),
    "call in condition": ("CT1206", HEAD + RECORD + MODEL + "visits.retrain('open(1) > 1')", "open"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_is_a_finding(name: str, tmp_path: Path) -> None:
    """It has its code, names what is at fault, says what to do and is raised by compile_file in four parts."""
    code, source, says = BROKEN[name]
    path = written(tmp_path, source)
    found = [one for one in check(path).findings if one.level == "error"]
    assert [one.code for one in found] == [code]
    assert says in found[0].cause and found[0].hint
    with pytest.raises(Problem) as caught:
        compile_file(path)
    assert caught.value.text().startswith(f"error[{code}]: ")
    assert all(part in caught.value.text() for part in ("\n  cause: ", "\n  hint:  ", "\n  docs:  ctloop docs CT"))


def test_the_line_of_a_mistake_is_named(tmp_path: Path) -> None:
    """A finding points at the line of the user's file, not of ours."""
    (found,) = check(written(tmp_path, "import ctloop as ct", "", "ct.integer(8, 2)")).findings
    assert (Path(found.path).name, found.line) == ("my_model.py", 3)


@pytest.mark.parametrize(
    ("line", "code", "hint"),
    [
        ("visits.gate('ucc > 0.5')", "CT1206", "Did you mean 'auc'?"),
        ("visits.gate('auc > 0.5',\n    'champoin.auc > 0')", "CT1206", "Did you mean 'champion'?"),
        ("visits.retrain(\"psi('agee') > 0.2\")", "CT1206", "Did you mean \"psi('age')\"?"),
        ("visits.rollback('auc >')", "CT1206", "auc >= champion.auc"),
        ("visits.gaet('auc > 0.5')", "CT1004", "Did you mean 'gate'?"),
        ("visitss.gate('auc > 0.5')", "CT1004", "Did you mean 'visits'?"),
        ("ct.fieldd()", "CT1004", "Did you mean 'field'?"),
    ],
)
def test_a_name_that_does_not_exist_is_asked_about_at_its_line(tmp_path: Path, line: str, code: str, hint: str) -> None:
    """Not at the function's: where the condition, or the name, is written."""
    source = "\n".join([HEAD, RECORD, MODEL, "visits.gate('auc > 0.1')"])
    (found,) = [one for one in check(written(tmp_path, source, line)).findings if one.level == "error"]
    assert (found.code, hint in found.hint) == (code, True), found
    assert found.line == source.count("\n") + 2


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        (RECORD.replace('id="visit"', 'id="visitt"') + MODEL, "'visit'"),
        (RECORD.replace('time="at"', 'time="att"') + MODEL, "'at'"),
        (RECORD + "    hour: int = ct.derive('huor(at)')\n" + MODEL, "'hour'"),
        (RECORD + "    old: float = ct.derive('agee * 2')\n" + MODEL, "'age'"),
        (RECORD + MODEL.replace("(Visit)", "(Visit, metric='logloss')"), "'log_loss'"),
        (RECORD + MODEL.replace("(Visit)", "(Visit, report=['acuracy'])"), "'accuracy'"),
    ],
    ids=["id", "time", "function", "column", "metric", "report"],
)
def test_a_name_of_the_declaration_that_does_not_exist_is_asked_about(tmp_path: Path, source: str, hint: str) -> None:
    """In the record class and in the arguments of the model."""
    (found,) = check(written(tmp_path, HEAD, source)).findings
    assert found.hint == f"Did you mean {hint}?" and found.line > 0


def test_every_wrong_condition_is_said(tmp_path: Path) -> None:
    """All that is wrong in one look, not one at a time."""
    found = check(written(tmp_path, HEAD, RECORD, MODEL, "visits.gate('nps > 1')", "visits.retrain('rows >')")).findings
    assert [one.code for one in found] == ["CT1206", "CT1206"] and found[1].line == found[0].line + 1


def test_a_file_that_never_ends_is_ended(tmp_path: Path) -> None:
    """Import has a time limit."""
    (found,) = check(written(tmp_path, "while True: pass"), time_limit=1.5).findings
    assert found.code == "CT1005"


@pytest.mark.parametrize("name", ["numpy.py", "json.py"])
def test_a_file_named_as_an_installed_module(name: str, tmp_path: Path) -> None:
    """It would be imported instead of, or beside, the real one."""
    found = check(written(tmp_path, HEAD, RECORD, MODEL, name=name)).findings
    assert "CT1003" in [one.code for one in found]


def test_rules_of_an_extended_class_hold(tmp_path: Path) -> None:
    """A record class that extends another keeps its rules, its derived columns and above all its label."""
    rules = "age: float = ct.field(gt=0)", 'old: bool = ct.derive("age > 60")', "back: bool = ct.label()"
    parent = "\n    ".join(("class Base(ct.Record):", *rules)) + "\n"
    (manifest,) = check(written(tmp_path, HEAD, parent, "class Visit(Base):\n    rooms: int\n", MODEL)).manifests
    assert manifest.record.label is not None and manifest.record.label.name == "back"
    assert [one.name for one in manifest.record.inputs] == ["age", "rooms", "old"] and manifest.record.fields[0].gt == 0


def test_what_is_no_file(tmp_path: Path) -> None:
    """A path that does not exist, and one that is no Python."""
    assert check(tmp_path / "none.py").findings[0].code == "CT1001"
    assert check(written(tmp_path, "a,b", name="data.csv")).findings[0].code == "CT1001"


def test_options_that_are_converted_wrongly_are_hinted(tmp_path: Path) -> None:
    """Before anything runs, check says which options are converted wrongly."""
    uses = (
        "e.HistGradientBoostingClassifier(categorical_features=[0])",
        "SimpleImputer(add_indicator=True)",
        "OneHotEncoder(min_frequency=5)",
        "SimpleImputer(add_indicator=False)",
    )
    use = "\n".join(f"def f{place}(): return {one}" for place, one in enumerate(uses))
    checked = check(written(tmp_path, use, HEAD, RECORD, MODEL))
    assert checked.ok and [one.code for one in checked.findings] == ["CT1211"] * 3
    assert "gradient boosting takes missing values" in checked.findings[1].hint


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py", "a/../../evil.py", "data.bin"])
def test_a_bundle_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    """A zip that is not ours is refused before anything of it is imported."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr(name, "x = 1")
    with pytest.raises(Problem, match="CT1009"):
        bundle.unpack(body.getvalue(), tmp_path / "into")
    with pytest.raises(Problem, match="CT1009"):
        bundle.unpack(b"no zip", tmp_path / "into")


def test_a_model_from_its_bundle(tmp_path: Path) -> None:
    """What was packed is loaded again, with its parameters and their middle."""
    (made,) = compile_file(written(tmp_path, HEAD, RECORD, MODEL, name="bundled_visits.py"))
    bundle.unpack(made.bundle, tmp_path / "into")
    model = bundle.load_model(tmp_path / "into", made.manifest.module, made.manifest.function)
    assert model.parameters == made.manifest.parameters and model.defaults == {"depth": 5}
    with pytest.raises(Problem, match="CT1007"):
        bundle.load_model(tmp_path / "into", made.manifest.module, "Visit")


def test_every_code_helps() -> None:
    """Each entry of the catalogue has a title and a help."""
    assert all(one.title and one.help for one in CATALOGUE.values())


def test_the_how_tos_example(tmp_path: Path) -> None:
    """The file in docs/howto/declare-a-model.md compiles without a finding."""
    page = (FLIGHTS.parents[2] / "docs" / "howto" / "declare-a-model.md").read_text()
    source = page.split("```python\n")[1].split("```")[0]
    assert check(written(tmp_path, source)).findings == ()
