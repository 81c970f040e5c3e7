"""What a run is under may die: the run is cut off, its trials are kept, and the next attempt ends it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from flower_lake import GOOD, Compute, flowers_file

import ctloop.local
from ctloop.events.errors import TransientError
from ctloop_training.ray_runner import RayRunner
from ctloop_training.run_spec import Failed, Progress, RunOrder, Trained, Trial

pytestmark = pytest.mark.stack
DEADLINE = 90.0
SLOW = "    import time\n    time.sleep(1.0)\n" + GOOD


@pytest.fixture
async def runner(compute: Compute, tmp_path: Path) -> AsyncIterator[RayRunner]:
    async with RayRunner(compute.ray, tmp_path) as opened:
        yield opened


class Followed:
    """A run that goes on until something happens to it."""

    def __init__(self, runner: RayRunner, order: RunOrder) -> None:
        self.trials: list[Trial] = []
        self.first_trial = asyncio.Event()
        self.fitting = asyncio.Event()
        self.task = asyncio.create_task(runner.run(order, self.keep))

    async def keep(self, one: Progress) -> None:
        if one.stage == "search":
            self.fitting.set()
        if one.finished is not None:
            self.trials.append(one.finished)
            self.first_trial.set()


def child_pid(file: Path) -> int:
    return int(file.read_text())


def lives(pid: int) -> bool:
    """Whether a process is more than a zombie."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


async def gone(pid: int) -> None:
    """Wait for its end."""
    async with asyncio.timeout(20):
        while lives(pid):
            await asyncio.sleep(0.05)


def driver_pid(runner: RayRunner) -> int:
    process = runner._process
    assert process is not None
    return process.pid


async def next_attempt(runner: RayRunner, order: RunOrder) -> tuple[Followed, Trained | Failed]:
    """The next attempt that is not lost too: as its job does, it tries again while the head comes back."""
    while True:
        again = Followed(runner, order)
        try:
            return again, await again.task
        except TransientError:
            assert not again.trials
            await asyncio.sleep(0.2)


async def replaced_unseen(compute: Compute, driver: int) -> None:
    """The head is killed and there again before the driver looks."""
    before = restarts(compute)
    os.kill(driver, signal.SIGSTOP)
    ctloop.local.kill(compute.stack.data_dir, "ray")
    async with asyncio.timeout(DEADLINE):
        while restarts(compute) == before or not ctloop.local.status(compute.stack.data_dir).ready:
            await asyncio.sleep(0.1)
    os.kill(driver, signal.SIGCONT)


def restarts(compute: Compute) -> int:
    return next(one.restarts for one in ctloop.local.status(compute.stack.data_dir).processes if one.name == "ray")


@pytest.mark.parametrize("victim", ["driver", "head", "head, unseen"])
@pytest.mark.timeout(240)
async def test_a_run_that_is_cut_off_ends_in_its_next_attempt(compute: Compute, runner: RayRunner, victim: str) -> None:
    """The driver is killed, or the whole head, also so fast that nobody sees it; trials that ended are not tried again."""
    manifest = compute.applied(flowers_file(SLOW, trials=4))
    order = compute.order(manifest, f"cut-{victim[-6:]}")
    run = Followed(runner, order)
    async with asyncio.timeout(DEADLINE):
        await run.first_trial.wait()
    if victim == "driver":
        os.kill(driver_pid(runner), signal.SIGKILL)
    elif victim == "head, unseen":
        await replaced_unseen(compute, driver_pid(runner))
    else:
        ctloop.local.kill(compute.stack.data_dir, "ray")
    with pytest.raises(TransientError):
        async with asyncio.timeout(DEADLINE):
            await run.task
    async with asyncio.timeout(DEADLINE):
        again, ended = await next_attempt(runner, order.model_copy(update={"trials": tuple(run.trials)}))
    assert isinstance(ended, Trained)
    assert [trial.number for trial in again.trials] == list(range(len(run.trials), 4))


@pytest.mark.timeout(240)
async def test_a_cancelled_run_takes_the_user_s_process_with_it(
    compute: Compute, runner: RayRunner, tmp_path: Path
) -> None:
    """When a lease is lost nothing goes on fitting."""
    file = tmp_path / "pid"
    body = f"    import os, time\n    open({str(file)!r}, 'w').write(str(os.getpid()))\n    time.sleep(600)\n"
    run = Followed(runner, compute.order(compute.applied(flowers_file(body, time_limit=600)), "cancelled"))
    async with asyncio.timeout(DEADLINE):
        while not file.exists() or not file.read_text():
            await asyncio.sleep(0.05)
    run.task.cancel()
    await asyncio.wait({run.task})
    await gone(child_pid(file))
