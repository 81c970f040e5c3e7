"""The stack and the loop as a user meets them: start, first loop, overhead of a loop, memory, idle, kill to first event."""

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

import ctloop.local
from bench import write_result
from ctloop.cli.declaring import wait_until_known
from ctloop.client import Client
from ctloop.compiler import compile_file
from ctloop.local.state import Stack
from ctloop.problems import Problem

LOOPS, KILLS, PATIENCE = 100, 5, 90.0
SETTLE_SECONDS, IDLE_SECONDS = 10.0, 60.0
FIRST = datetime(2020, 1, 1, tzinfo=UTC)
MODEL = '''
from datetime import datetime
import numpy as np
import ctloop as ct
from sklearn.linear_model import LogisticRegression


class Tick(ct.Record, id="tick", time="at"):
    tick: str
    at: datetime
    x: float
    up: bool = ct.label()


@ct.model(Tick)
def ticks(X, y):
    """As little training as has some skill: 200 rows of one column."""
    return LogisticRegression().fit(X[:200], y[:200])
'''


def ticks(first: int, rows: int) -> pa.Table:
    """Rows whose label follows x."""
    random = np.random.default_rng(first)
    x = random.normal(size=rows)
    at = [FIRST + timedelta(seconds=first + one) for one in range(rows)]
    return pa.table(
        {
            "tick": [f"t{first + one}" for one in range(rows)],
            "at": pa.array(at, pa.timestamp("us", "UTC")),
            "x": x,
            "up": random.random(rows) < 1 / (1 + np.exp(-2 * x)),
        }
    )


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a fact."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise TimeoutError(what)


def loops(client: Client, state: str) -> list[dict[str, Any]]:
    """Loops in a state."""
    return [one for one in client.loops("ticks", limit=200)["items"] if one["state"] == state]


def one_loop(client: Client, number: int) -> float:
    """One loop by hand; its platform seconds, decision to first answer less the user's."""
    client.retrain("ticks", reason=f"bench {number}")

    def ended() -> dict[str, Any] | None:
        newest = client.loops("ticks", limit=1)["items"][0]
        done = newest["number"] > number and newest["state"] in ("closed", "refused", "failed")
        return newest if done else None

    return float(until(ended, f"loop {number}")["platform_seconds"] or 0.0)


def first_loop(client: Client, folder: Path) -> float:
    """Send to answered, on a warmed worker."""
    (folder / "ticks.py").write_text(MODEL)
    compiled = compile_file(folder / "ticks.py")[0]
    wait_until_known(client, client.apply(compiled.manifest, compiled.bundle))
    time.sleep(8)  # a worker is being warmed; a user is still reading
    began = time.monotonic()
    client.send("tick", ticks(0, 1000))
    until(lambda: loops(client, "closed"), "first loop")
    return time.monotonic() - began


@contextmanager
def application(stack: Stack) -> Generator[None]:
    """Somebody who asks for a prediction twenty times a second, as soon as there is a model."""
    over = threading.Event()

    def ask() -> None:
        with Client(urls=stack.urls, patience_seconds=0) as client:
            while not over.wait(0.05):
                with suppress(Problem):
                    client.predict("ticks", {"x": 0.5})

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def kill_to_event(client: Client, stack: Stack, service: str, number: int) -> float:
    """kill -9 of a service to its next event: rows sent right after it are audited."""
    before = sum(one["rows"] for one in client.audits("tick")["items"])
    began = time.monotonic()
    ctloop.local.kill(stack.data_dir, service)

    def audited() -> bool:
        try:
            return sum(one["rows"] for one in client.audits("tick")["items"]) > before
        except Problem:
            return False

    client.send("tick", ticks(100_000 + 1000 * number, 10), key=f"kill-{number}")
    until(audited, service)
    return time.monotonic() - began


def memory_and_idle(stack: Stack) -> dict[str, float]:
    """PSS of everything, of a service on average, and CPU while nothing happens."""
    processes = [process for one in stack.processes if one.pid for process in family(one.pid)]
    before = sum(busy(process) for process in processes)
    time.sleep(IDLE_SECONDS)
    after = sum(busy(process) for process in processes)
    status = ctloop.local.status(stack.data_dir)
    services = [one.pss_bytes or 0 for one in status.processes if one.kind == "service"]
    return {
        "pss_mib": sum(one.pss_bytes or 0 for one in status.processes) / 2**20,
        "service_pss_mib_average": statistics.mean(services) / 2**20,
        "idle_percent_of_a_core": 100 * (after - before) / IDLE_SECONDS,
    }


def family(pid: int) -> list[psutil.Process]:
    """A process and what it started."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def busy(process: psutil.Process) -> float:
    """CPU seconds so far."""
    try:
        times = process.cpu_times()
        return times.user + times.system
    except psutil.NoSuchProcess:
        return 0.0


def help_seconds() -> float:
    """``ctloop --help``, median of 5."""
    taken: list[float] = []
    for _ in range(6):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ctloop.cli.main", "--help"], capture_output=True, check=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def measure() -> Path:
    """Everything of this file, on a stack of its own."""
    with tempfile.TemporaryDirectory(prefix="ctloop-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        data_dir = folder / "stack"
        began = time.monotonic()
        ctloop.local.up(data_dir)
        cold = time.monotonic() - began
        ctloop.local.down(data_dir)
        began = time.monotonic()
        stack = ctloop.local.up(data_dir)
        second = time.monotonic() - began
        try:
            return write_result(
                "loop", {"goals": GOALS, "measured": on(stack, folder) | {"cold": cold, "second": second}}
            )
        finally:
            ctloop.local.down(data_dir)


GOALS = {
    "cold": 25, "second": 18, "first_loop": 3, "platform_p95": 2, "pss_mib": 1741, "service_pss_mib_average": 120,
    "idle_percent_of_a_core": 15, "kill_to_event": 3, "help": 0.15,
}  # fmt: skip


def on(stack: Stack, folder: Path) -> dict[str, Any]:
    """What is measured on a running stack."""
    with Client(urls=stack.urls, patience_seconds=60) as client:
        time.sleep(SETTLE_SECONDS)
        idle = memory_and_idle(stack)
        with application(stack):
            first = first_loop(client, folder)
            platform = sorted(one_loop(client, number) for number in range(1, LOOPS + 1))
        kills = [kill_to_event(client, stack, "validation", number) for number in range(KILLS)]
        latencies = {one["name"]: one["p95_seconds"] for one in client.latencies()["items"]}
    return idle | {
        "first_loop": first,
        "platform_p50": statistics.median(platform),
        "platform_p95": platform[int(0.95 * len(platform)) - 1],
        "kill_to_event": statistics.median(kills),
        "said_to_heard_p95": latencies.get("said to heard"),
        "help": help_seconds(),
    }


if __name__ == "__main__":
    print(measure())
