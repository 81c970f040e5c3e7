"""A job ends once, whatever dies: leased, fenced, taken back at once, and given up when it kills."""

import asyncio
import signal

import pytest
from probe_bench import Bench, deployed

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]
DONE = "SELECT model, epoch, fence FROM done ORDER BY n"


@pytest.mark.parametrize("point", ["job.begin", "job.done", "job.commit", "job.committed"])
async def test_a_job_ends_once_whatever_dies(bench: Bench, point: str) -> None:
    """Two deaths at one boundary; a restarted process takes its jobs back at once, under the next fence."""
    await bench.send([deployed(f"m{key}", epoch, "job") for epoch in range(1, 4) for key in range(4)])
    for _ in range(2):  # of three attempts
        process = bench.start(failpoint=f"{point}:kill:2")
        await asyncio.wait_for(asyncio.to_thread(process.wait), 40)
        assert process.returncode == -signal.SIGKILL
    bench.start()
    rows = await bench.until(lambda found: len(found) >= 12, DONE, seconds=20)  # less than a lease
    assert sorted((row["model"], row["epoch"]) for row in rows) == [
        (f"m{key}", epoch) for key in range(4) for epoch in range(1, 4)
    ]
    for key in range(4):  # one lane per model: one at a time, in order
        assert [row["epoch"] for row in rows if row["model"] == f"m{key}"] == [1, 2, 3]
    assert await bench.query("SELECT 1 FROM job WHERE state <> 'DONE'") == []


async def test_a_job_that_kills_the_process_fails(bench: Bench) -> None:
    """After so many deaths, whatever attempts are left, its handler of failure ends it, and the process lives."""
    await bench.send([deployed("killer", 1, "job")])
    deaths = 0
    while deaths < 8 and not await bench.query(DONE):
        process = bench.start()
        failed = asyncio.create_task(bench.until(lambda found: bool(found), DONE))
        ended = asyncio.create_task(asyncio.to_thread(process.wait))
        await asyncio.wait({failed, ended}, return_when=asyncio.FIRST_COMPLETED)
        failed.cancel()
        deaths += process.poll() is not None
    assert deaths == 3  # its max_deaths; an attempt is left
    assert [row["fence"] for row in await bench.query(DONE)] == [-1]
    assert [row["state"] for row in await bench.query("SELECT state FROM job")] == ["FAILED"]


@pytest.mark.parametrize("model", ["failing", "impossible"])
async def test_a_failure_ends_in_its_handler(bench: Bench, model: str) -> None:
    """Tried again until the attempts are used up, or not at all where that cannot help."""
    bench.start()
    await bench.send([deployed(model, 1, "job")], twice=True)
    rows = await bench.until(lambda found: bool(found), DONE)
    assert [row["fence"] for row in rows] == [-1]
    attempts = await bench.query("SELECT attempt FROM job")
    assert [row["attempt"] for row in attempts] == [4 if model == "failing" else 1]
