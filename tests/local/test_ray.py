"""The trimmed Ray head is a whole one: it takes drivers with the token, runs their tasks, and listens on loopback only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ctloop.local
from ctloop.local import processes
from ctloop.local.state import Stack

pytestmark = pytest.mark.stack
DRIVER = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False)
@ray.remote
def double(x):
    return 2 * x
print(ray.get(double.remote(21), timeout=60), ray.nodes()[0]["NodeManagerAddress"])
"""


def drive(stack: Stack, token_file: Path) -> subprocess.CompletedProcess[str]:
    """One driver in a process of its own."""
    environment = os.environ | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
    }
    argv = (sys.executable, "-P", "-c", DRIVER, stack.urls["ray"])
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=100, check=False)


def listening(stack: Stack) -> set[tuple[str, int]]:
    """Addresses (hexadecimal, as the kernel writes them) and ports on which the stack's processes listen."""
    pids = [row.pid for process in stack.processes if process.pid for row in processes.family(process.pid)]
    links = [str(fd.readlink()) for pid in pids for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    sockets = {link[8:-1] for link in links if link.startswith("socket:")}
    lines = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    ours = [line[1].split(":") for line in lines if line[3] == "0A" and line[9] in sockets]
    return {(address, int(port, 16)) for address, port in ours}


@pytest.mark.timeout(240)
def test_a_task_runs_and_strangers_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A driver with the token gets its answer, one with another token does not; nothing listens beyond loopback."""
    place = tmp_path_factory.mktemp("ray")
    base = int(os.environ.get("CTLOOP_PORT_BASE", "22000")) + 300
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTLOOP_PORT_BASE", str(base))
        stack = ctloop.local.up(place, components=("ray",), services=(), tied=True)
    try:
        assert drive(stack, stack.files["ray"]).stdout.split() == ["42", "127.0.0.1"]
        wrong = tmp_path_factory.mktemp("token") / "token"
        wrong.write_text("0" * 64)
        refused = drive(stack, wrong)
        assert refused.returncode != 0
        assert "AuthenticationError" in refused.stderr
        addresses = listening(stack)
        assert {address for address, _ in addresses} <= {"0100007F", "0000000000000000FFFF00000100007F"}
        assert {port for _, port in addresses if port < 32768} <= set(range(base, base + 80))
    finally:
        ctloop.local.down(place)
