"""The supervisor's promises, kept with real servers: S3 and PostgreSQL, the quickest, stand for all where they can."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import ctloop.local
from ctloop.local import processes, state
from ctloop.local.ports import LOOPBACK, ports_of
from ctloop.local.state import ProcessStatus, Stack
from ctloop.problems import Problem

pytestmark = pytest.mark.stack
OFFSET = 200
"""Beside the session's servers."""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory with ports of its own; nothing of it runs afterwards."""
    monkeypatch.setenv("CTLOOP_PORT_BASE", str(int(os.environ.get("CTLOOP_PORT_BASE", "22000")) + OFFSET))
    # Not pytest's own folder: every other session closes that to PostgreSQL, which is nobody where we are root.
    with tempfile.TemporaryDirectory(prefix="ctloop-tests-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder
        ctloop.local.down(folder)


def start(place: Path, *components: str) -> Stack:
    return ctloop.local.up(place, components=components, services=(), tied=True)


def now(place: Path, name: str) -> ProcessStatus:
    stack = state.read(place)
    assert stack is not None
    return stack.process(name)


def everybody(stack: Stack) -> list[processes.Identity]:
    """The supervisor, and all that it and its children started."""
    assert stack.pid is not None
    pids = [stack.pid, *(process.pid for process in stack.processes if process.pid)]
    rows = processes.table()
    found = {row.pid for pid in pids for row in processes.family(pid, rows)}
    return [identity for pid in found if (identity := processes.identify(pid)) is not None]


def test_a_killed_component_comes_back_with_its_data(place: Path) -> None:
    """kill -9 of PostgreSQL: a new process answers at the same port, and the restart is counted."""
    before = start(place, "postgres").process("postgres")
    assert ctloop.local.kill(place, "postgres") == before.pid
    assert processes.wait_until(lambda: now(place, "postgres").restarts == 1 and now(place, "postgres").is_ready, 20)
    after = now(place, "postgres")
    assert (after.port, after.pid == before.pid) == (before.port, False)


def test_nothing_survives_down(place: Path) -> None:
    """After down no process runs; a second down finds nothing to do."""
    ran = everybody(start(place, "s3", "postgres"))
    assert ctloop.local.down(place)
    assert not [identity for identity in ran if processes.lives(identity)]
    assert not ctloop.local.down(place)
    assert not ctloop.local.status(place).running


@pytest.mark.timeout(180)
def test_nothing_survives_the_killed_supervisor(place: Path) -> None:
    """kill -9 of the supervisor takes all with it, Ray's agents too; the next start works on the same data."""
    stack = start(place, "postgres", "s3", "ray")
    ran = everybody(stack)
    assert len(ran) >= 8
    assert stack.pid is not None
    os.kill(stack.pid, signal.SIGKILL)
    assert processes.wait_until(lambda: not any(processes.lives(identity) for identity in ran), 5)
    assert start(place, "postgres", "s3", "ray").phase == "ready"


def test_a_taken_port_is_said_and_nothing_is_left(place: Path) -> None:
    """One part's port is taken: the message names it, and the half-started stack is gone."""
    port = ports_of(int(os.environ["CTLOOP_PORT_BASE"]))["s3"]
    with socket.create_server((LOOPBACK, port)), pytest.raises(Problem) as raised:
        start(place, "postgres", "s3")
    assert raised.value.code == "CT9102"
    assert f"s3 cannot start: port {port}" in raised.value.cause
    stack = state.read(place)
    assert stack is not None
    assert stack.phase == "failed"
    assert not any(process.pid for process in stack.processes)


def test_a_part_that_cannot_start_takes_the_others_down(place: Path) -> None:
    """PostgreSQL's files are broken: the message names it and its last words, and S3 does not go on alone."""
    start(place, "postgres", "s3")
    ctloop.local.down(place)
    (place / "postgres" / "data" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(Problem, match="postgres: ended with exit code 1") as raised:
        start(place, "postgres", "s3")
    assert raised.value.code == "CT9104"
    assert "database files are incompatible with server" in raised.value.cause
    assert "postgres.log" in raised.value.hint
    stack = state.read(place)
    assert stack is not None
    assert everybody(stack.model_copy(update={"pid": -1})) == []


def test_the_second_start_keeps_ports_and_secrets(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CTLOOP_PORT_BASE the ports of the first start are used again, and so are the keys."""
    first = start(place, "s3")
    keys = first.files["s3"].read_text()
    ctloop.local.down(place)
    monkeypatch.delenv("CTLOOP_PORT_BASE")
    second = start(place, "s3")
    assert second.ports == first.ports
    assert second.files["s3"].read_text() == keys


def test_secrets_are_private(place: Path) -> None:
    """Only their owner reads them, and no command line shows one."""
    stack = start(place, "postgres", "s3")
    files = [path for path in (place / "secrets").iterdir() if path.is_file()]
    assert {oct(path.stat().st_mode & 0o777) for path in [*files, place / "stack.json"]} == {"0o600"}
    passwords = [path.read_text() for path in files if path.name.startswith("postgres-") and path.read_text()]
    lines = [Path(f"/proc/{identity.pid}/cmdline").read_text() for identity in everybody(stack)]
    assert not [line for line in lines if any(password in line for password in passwords)]


def test_ones_own_server_is_used_and_not_started(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CTLOOP_S3__ENDPOINT: that server is probed and given to clients, and no S3 server of ours runs."""
    with socket.create_server((LOOPBACK, 0)) as nobody:
        gone = nobody.getsockname()[1]
    monkeypatch.setenv("CTLOOP_S3__ENDPOINT", f"http://{LOOPBACK}:{gone}")
    with pytest.raises(Problem, match="CTLOOP_S3__KEYS_FILE"):
        start(place, "s3")
    keys = place / "keys.json"
    keys.write_text('{"access_key": "a", "secret_key": "s"}')
    monkeypatch.setenv("CTLOOP_S3__KEYS_FILE", str(keys))
    with pytest.raises(Problem, match=f"s3 at http://{LOOPBACK}:{gone}") as raised:
        start(place, "s3")
    assert raised.value.code == "CT9105"


def test_a_stack_ends_with_the_process_it_is_tied_to(place: Path) -> None:
    """What pytest and scripts start does not outlive them, even after kill -9."""
    script = textwrap.dedent(f"""
        import time, ctloop.local
        ctloop.local.up({str(place)!r}, components=("s3",), services=(), tied=True)
        print("ready", flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        stack = state.read(place)
        assert stack is not None
        ran = everybody(stack)
        owner.kill()
    assert processes.wait_until(lambda: not any(processes.lives(identity) for identity in ran), 10)
