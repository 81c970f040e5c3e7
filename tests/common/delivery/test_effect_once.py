"""Whatever dies, every fact has one effect, in order of its key, and nothing is missing."""

import asyncio
import os
import signal
from typing import Any

import pytest
from probe_bench import Bench, deployed

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
KEYS, EACH = 8, 60
ALL_EFFECTS = "SELECT hop, model, epoch FROM effect ORDER BY n"


def facts() -> list[Any]:
    return [deployed(f"m{key}", epoch) for epoch in range(1, EACH + 1) for key in range(KEYS)]


def complete(rows: list[Any]) -> bool:
    return len(rows) >= 2 * KEYS * EACH


def assert_once_and_in_order(rows: list[Any]) -> None:
    for hop in (1, 2):
        for key in range(KEYS):
            epochs = [row["epoch"] for row in rows if row["hop"] == hop and row["model"] == f"m{key}"]
            assert epochs == list(range(1, EACH + 1)), (hop, key)


async def test_two_hops(bench: Bench) -> None:
    """Facts sent twice have one effect, and the facts they cause have one effect."""
    bench.start()
    await bench.send(facts(), twice=True)
    assert_once_and_in_order(await bench.until(complete, ALL_EFFECTS))
    assert await bench.query("SELECT 1 FROM outbox") == []


@pytest.mark.parametrize(
    "point", ["consume.begin", "consume.commit", "consume.committed", "relay.sent", "relay.deleted"]
)
async def test_deaths_at_every_boundary(bench: Bench, point: str) -> None:
    """Eight deaths in a row at the same boundary, at a later hit each time; forty in the whole run."""
    await bench.send(facts())
    for death in range(8):
        process = bench.start(failpoint=f"{point}:kill:{1 + death % 3}")
        await asyncio.wait_for(asyncio.to_thread(process.wait), 40)
        assert process.returncode == -signal.SIGKILL
        await bench.send([deployed(f"m{key}", EACH) for key in range(KEYS)])  # there is always something to do
    bench.start()
    assert_once_and_in_order(await bench.until(complete, ALL_EFFECTS))


async def test_a_frozen_zombie_changes_nothing(bench: Bench) -> None:
    """A process stopped in the middle of a transaction wakes after another has done its work: it is fenced."""
    await bench.send(facts())
    zombie = bench.start(failpoint="consume.committed:stop:2")
    await bench.until(lambda rows: len(rows) > 0, "SELECT 1 FROM effect")
    bench.start()
    first_hop = "SELECT 1 FROM effect WHERE hop = 1"  # the frozen relay holds the lock of the outbox
    await bench.until(lambda rows: len(rows) >= KEYS * EACH, first_hop)
    os.kill(zombie.pid, signal.SIGCONT)
    await bench.send([deployed("m0", EACH + 1)])
    rows = await bench.until(lambda found: len(found) >= 2 * KEYS * EACH + 2, ALL_EFFECTS)
    assert_once_and_in_order([row for row in rows if row["epoch"] <= EACH])


async def test_two_processes_share_the_partitions(bench: Bench) -> None:
    """A second process joins in the middle and one is killed: a rebalance loses nothing."""
    first = bench.start(ordinal=0)
    await bench.send(facts()[: KEYS * EACH // 2])
    bench.start(ordinal=1)
    await bench.until(lambda rows: len(rows) > KEYS, "SELECT 1 FROM effect")
    os.kill(first.pid, signal.SIGKILL)
    await asyncio.to_thread(first.wait)
    bench.start(ordinal=0)
    await bench.send(facts()[KEYS * EACH // 2 :])
    assert_once_and_in_order(await bench.until(complete, ALL_EFFECTS, seconds=90))
