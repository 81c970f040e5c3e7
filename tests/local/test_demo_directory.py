"""The demo begins with nothing, and removes only what a demo has left."""

from pathlib import Path

import pytest

from ctloop.cli.demo import MARK, begin_anew
from ctloop.problems import Problem


def test_what_an_earlier_demo_left_is_removed(tmp_path: Path) -> None:
    """Twice in a row in one directory."""
    where = tmp_path / "data"
    begin_anew(where)
    (where / "postgres").mkdir()
    begin_anew(where)
    assert [one.name for one in where.iterdir()] == [MARK]


def test_data_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    """It says so, and what to do."""
    (tmp_path / "postgres").mkdir()
    with pytest.raises(Problem) as raised:
        begin_anew(tmp_path)
    assert raised.value.code == "CT9109" and "CTLOOP_DATA" in raised.value.hint
    assert (tmp_path / "postgres").exists()
