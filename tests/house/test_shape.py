"""The house rules a machine can check: names, sizes, where SQL, clocks and randomness may be."""

import re
from pathlib import Path

import pytest

from ctloop.problems import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("libs/common/**/*.py"), *ROOT.glob("services/**/*.py")])
SERVICES = ("ingestion", "validation", "training", "registry", "serving", "monitoring", "console")
BANNED_NAMES = {"utils", "util", "helpers", "helper", "core", "base", "misc", "manager", "common"}


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def room(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_file_is_named_after_nothing() -> None:
    """A name that says nothing is a dumping ground in waiting."""
    assert [room(path) for path in SOURCES if path.stem in BANNED_NAMES] == []


def test_files_stay_small() -> None:
    """300 lines in a service, 400 in ctloop, 500 in a test."""
    caps = [(path, 300 if "services" in path.parts else 400) for path in SOURCES]
    caps += [(path, 500) for path in ROOT.glob("tests/**/*.py")]
    assert [f"{room(path)}: {lines(path)}" for path, cap in caps if lines(path) > cap] == []


def test_nothing_is_left_for_later() -> None:
    """No stub, no marker of unfinished work."""
    marker = re.compile(r"\b(TO" r"DO|FIX" r"ME)\b|raise NotImplemented" r"Error")
    assert [room(path) for path in SOURCES if marker.search(path.read_text())] == []


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_rooms(service: str) -> None:
    """Who knows one service can open the next: README, app, handlers where it hears, store and schema where it keeps."""
    folder = ROOT / "services" / service
    package = folder / f"ctloop_{service}"
    rooms = {"__init__.py", "app.py"} | ({"handlers.py", "store.py", "schema.sql"} if service != "serving" else set())
    assert (folder / "README.md").exists()
    assert rooms - {path.name for path in package.iterdir()} == set()


def decisions() -> list[Path]:
    pure = [*ROOT.glob("libs/common/ctloop/policy/*.py"), *ROOT.glob("services/*/ctloop_*/domain/*.py")]
    return sorted([*pure, *ROOT.glob("services/*/ctloop_*/handlers.py")])


def test_decisions_read_no_clock_and_no_dice() -> None:
    """Clock, ids and seeds come from the unit of work or are arguments."""
    forbidden = re.compile(r"datetime\.now\(|\butcnow\(|time\.time\(|uuid4\(|random\.random\(|default_rng\(\)")
    assert [room(path) for path in decisions() if forbidden.search(path.read_text())] == []


def test_sql_of_a_service_is_in_its_store() -> None:
    """All SQL of a service stands in store.py (or store_*.py) and schema.sql."""
    sql = re.compile(r"\.(fetch|fetchrow|fetchval|execute|executemany|copy_records_to_table)\(\s*(f?\"|f?'''|\"\"\")")
    guilty = [
        room(path)
        for path in ROOT.glob("services/*/ctloop_*/**/*.py")
        if "store" not in path.stem and sql.search(path.read_text())
    ]
    assert guilty == []


def test_nothing_but_topics_names_a_topic() -> None:
    """Topic names stand in the event classes only."""
    topic = re.compile(r"[\"'][a-z]+(-[a-z]+)+\.v1[\"']")
    elsewhere = [path for path in SOURCES if "events" not in path.parts]
    assert [room(path) for path in elsewhere if topic.search(path.read_text())] == []


def test_readme_is_short() -> None:
    """Under 150 lines."""
    assert lines(ROOT / "README.md") < 150


def test_every_code_is_in_the_catalogue() -> None:
    """A code that is said can be looked up, with what helps; and none is listed that nobody says."""
    said = {
        code for path in SOURCES if path.name != "problems.py" for code in re.findall(r'"(CT\d{4})"', path.read_text())
    }
    said |= {f"CT{status}0" for status in (404, 405)}  # platform/http.py makes them of the status
    assert said - set(CATALOGUE) == set()
    assert set(CATALOGUE) - said == set()
