"""Validation dies by SIGKILL at every boundary of an audit; every batch has its effect once."""

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest

from ctloop.platform.storage import Lake

POINTS = ("job.begin", "job.done", "job.commit", "job.committed")
"""Before anything; the lake has the rows and PostgreSQL knows nothing; before and after PostgreSQL's commit."""


def start(world: Any, port: int, failpoint: str = "") -> subprocess.Popen[bytes]:
    """Validation as a process of its own."""
    environment = os.environ | world.environment | {"CTLOOP_FAILPOINT": failpoint, "CTLOOP_SERVICE__PORT": str(port)}
    command = [sys.executable, "-P", "-m", "ctloop.platform.service", "validation"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


async def ended(process: subprocess.Popen[bytes]) -> int:
    """Its exit code."""
    async with asyncio.timeout(60):
        return await asyncio.to_thread(process.wait)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("world", ["outside"], indirect=True)
async def test_kill_9_at_every_boundary_of_an_audit(world: Any, free_port: int) -> None:
    """Four deaths, four batches: each is in the lake once, said once, and the versions are 1, 2, 3, 4."""
    process = start(world, free_port)
    try:
        await world.release()
        for place, point in enumerate(POINTS):
            process.kill()
            await ended(process)
            process = start(world, free_port, f"{point}:kill:1")
            rows = [
                {
                    "flight": f"F{place}-{one}",
                    "departs": "2013-01-02T00:00:00Z",
                    "carrier": "UA",
                    "distance": 1,
                    "late": True,
                }
                for one in range(20)
            ]
            assert (await world.send(rows)).status_code == 202
            assert await ended(process) == -9
            process = start(world, free_port)
            await world.validated(place + 1)
    finally:
        process.kill()
    said = await world.validated(len(POINTS))
    assert [(one.version.n, one.rows, one.labelled, one.duplicates) for one in said] == [
        (n, 20, 20, 0) for n in range(1, len(POINTS) + 1)
    ]
    lake: Lake = world.validation.jobs.lake
    assert len(set(lake.read("flight", said[-1].version).column("flight").to_pylist())) == 80
    assert lake.read("flight", said[-1].version).num_rows == 80
    assert [lake.read("flight", one.version).num_rows for one in said] == [20, 40, 60, 80]


@pytest.fixture
def free_port(unused_tcp_port: int) -> int:
    """A port nobody listens on."""
    return unused_tcp_port
