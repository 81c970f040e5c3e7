"""Where everything listens."""

import socket

import pytest

from ctloop.local.ports import CEILING, LOOPBACK, OFFSETS, SPAN, find_base, is_free, ports_of, refuse_taken
from ctloop.local.settings import local_settings
from ctloop.problems import Problem


def test_ports_are_distinct_and_below_the_outgoing_ones() -> None:
    """Every part has its own port, and the last base still ends below 32768."""
    assert len(set(OFFSETS.values())) == len(OFFSETS)
    assert max(OFFSETS.values()) < SPAN
    assert CEILING + SPAN <= 32768


def test_serving_is_at_the_base() -> None:
    """What the README shows: with nothing set and all free, models answer at 18080."""
    assert ports_of(18080)["serving"] == 18080


def test_a_found_base_is_free() -> None:
    """All ports of a base that was found can be listened on."""
    assert all(is_free(port) for port in ports_of(find_base()).values())


def test_a_taken_port_is_named() -> None:
    """The message says which part, which port, and what to do."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(Problem, match=f"kafka cannot start: port {port} is in use") as raised:
            refuse_taken({"kafka": port}, ["kafka"])
    assert raised.value.code == "CT9102"
    assert "CTLOOP_PORT_BASE" in raised.value.hint


def test_a_setting_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its variable and value, not by a traceback."""
    monkeypatch.setenv("CTLOOP_PORT_BASE", "34000")
    with pytest.raises(Problem, match="CT9108") as refused:
        local_settings()
    assert "CTLOOP_PORT_BASE='34000'" in refused.value.cause
