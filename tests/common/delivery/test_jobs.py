"""A job ends once, whatever dies: leased, fenced, taken back at once, and given up when it kills."""

import asyncio
import os
import signal

import pytest
from probe_bench import Bench, deployed

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]
END_LEASE = "UPDATE job SET lease_until = clock_timestamp() WHERE state = 'RUNNING'"
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


async def test_a_job_of_a_dead_process_is_done_by_another(bench: Bench) -> None:
    """kill -9 in the middle of a job, and its process does not come back: when the lease is over another one does it."""
    await bench.send([deployed("a", 1, "job")])
    process = bench.start(failpoint="job.done:kill:1")
    assert await bench.ended(process) == -signal.SIGKILL
    bench.start(ordinal=1)
    await bench.until(lambda found: bool(found), "SELECT 1 FROM process WHERE ordinal = 1")
    assert await bench.query(DONE) == []  # the lease is the dead one's yet
    await bench.query(END_LEASE)
    rows = await bench.until(lambda found: bool(found), DONE)
    assert [(row["model"], row["epoch"], row["fence"]) for row in rows] == [("a", 1, 2)]


async def test_a_frozen_zombie_ends_no_job(bench: Bench) -> None:
    """It has done the work and stops before it says so; another does it under the next fence; awake, it is refused."""
    await bench.send([deployed("a", epoch, "job") for epoch in (1, 2)])
    zombie = bench.start(failpoint="job.done:stop:1")
    await bench.frozen(zombie)
    bench.start(ordinal=1)
    await bench.query(END_LEASE)
    both = await bench.until(lambda found: len(found) == 2, DONE)
    assert [(row["epoch"], row["fence"]) for row in both] == [(1, 2), (2, 1)]
    os.kill(zombie.pid, signal.SIGCONT)
    await bench.send([deployed("b", 1, "job")])
    rows = await bench.until(lambda found: len(found) == 3, DONE)
    assert [(row["model"], row["epoch"]) for row in rows] == [("a", 1), ("a", 2), ("b", 1)]
    assert {row["state"] for row in await bench.query("SELECT state FROM job")} == {"DONE"}


async def test_a_job_that_leaks_a_cancellation_is_no_loop_without_end(bench: Bench) -> None:
    """It counts as a failed attempt, as any bug does, and its process goes on."""
    bench.start()
    await bench.send([deployed("leaking", 1, "job"), deployed("a", 1, "job")])
    rows = await bench.until(lambda found: len(found) == 2, DONE)
    assert {(row["model"], row["fence"]) for row in rows} == {("leaking", -1), ("a", 1)}
    assert [row["attempt"] for row in await bench.query("SELECT attempt FROM job WHERE state = 'FAILED'")] == [4]
