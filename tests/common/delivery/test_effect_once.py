"""Whatever dies, every fact has one effect, in order of its key, and nothing is missing."""

import os
import signal
from typing import Any

import pytest
from probe_bench import Bench, deployed

from ctloop.platform.delivery.liveness import EXIT_UNHEALTHY

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
        assert await bench.ended(process) == -signal.SIGKILL
        await bench.send([deployed(f"m{key}", EACH) for key in range(KEYS)])  # there is always something to do
    bench.start()
    assert_once_and_in_order(await bench.until(complete, ALL_EFFECTS))


@pytest.mark.parametrize("point", ["consume.commit", "relay.sent"])
async def test_a_frozen_zombie_changes_nothing(bench: Bench, point: str) -> None:
    """A process stopped inside a transaction, or with its relay's lock: another does its work, facts go on,
    and when it wakes it is fenced, says nothing new and ends itself."""
    await bench.send(facts())
    zombie = bench.start(failpoint=f"{point}:stop:2")
    await bench.frozen(zombie)
    bench.start()
    assert_once_and_in_order(await bench.until(complete, ALL_EFFECTS))
    os.kill(zombie.pid, signal.SIGCONT)
    assert await bench.ended(zombie) == EXIT_UNHEALTHY
    await bench.send([deployed("m0", EACH + 1)])
    rows = await bench.until(lambda found: len(found) >= 2 * KEYS * EACH + 2, ALL_EFFECTS)
    assert_once_and_in_order([row for row in rows if row["epoch"] <= EACH])


async def test_a_freeze_in_a_transaction_is_no_bug_of_the_record(bench: Bench) -> None:
    """PostgreSQL ends the transaction of a process that sleeps too long: it is run again, nothing is parked for it."""
    await bench.send([deployed("m0", epoch) for epoch in range(1, 4)])
    process = bench.start(failpoint="consume.commit:stop:1")
    await bench.frozen(process)
    gone = "SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()"
    await bench.until(lambda found: not found, gone)
    await bench.query("CREATE TABLE ever (seq bigint)")
    await bench.query("CREATE RULE remember AS ON INSERT TO parked DO ALSO INSERT INTO ever VALUES (new.seq)")
    os.kill(process.pid, signal.SIGCONT)
    rows = await bench.until(lambda found: len(found) == 6, ALL_EFFECTS)
    assert [row["epoch"] for row in rows if row["hop"] == 1] == [1, 2, 3]
    assert await bench.query("SELECT 1 FROM ever") == []


async def test_a_rebalance_loses_nothing_and_a_static_member_returns_at_once(bench: Bench) -> None:
    """A second process joins, both work; one is killed and comes back: long before its session would have ended."""
    first = bench.start(ordinal=0)
    await bench.send(facts()[: KEYS * EACH // 2])
    await bench.until(lambda rows: len(rows) > KEYS, "SELECT 1 FROM effect")
    bench.start(ordinal=1)
    await bench.shared(2)
    await bench.send(facts()[KEYS * EACH // 2 :][: 2 * KEYS])
    os.kill(first.pid, signal.SIGKILL)
    await bench.ended(first)
    bench.start(ordinal=0)
    await bench.send(facts()[KEYS * EACH // 2 :])
    rows = await bench.until(complete, ALL_EFFECTS, seconds=20)  # its session is 45 s
    assert_once_and_in_order(rows)


async def test_members_come_and_go(bench: Bench) -> None:
    """A process joins and ends, by SIGTERM or SIGKILL, again and again under load."""
    bench.start(ordinal=0)
    await bench.send(facts()[:1])
    await bench.until(lambda rows: len(rows) == 2, "SELECT 1 FROM effect")
    for part in range(3):
        guest = bench.start(ordinal=1)
        await bench.answers()
        await bench.send(facts()[part * KEYS * EACH // 3 : (part + 1) * KEYS * EACH // 3])
        guest.send_signal(signal.SIGKILL if part == 1 else signal.SIGTERM)
        assert await bench.ended(guest) == (-signal.SIGKILL if part == 1 else 0)
    bench.start(ordinal=1)
    assert_once_and_in_order(await bench.until(complete, ALL_EFFECTS, seconds=90))


@pytest.mark.parametrize("server", ["kafka", "postgres"])
async def test_a_killed_server_delays_and_loses_nothing(bench: Bench, server: str) -> None:
    """kill -9 of the broker, or of PostgreSQL, in the middle of the stream: the supervisor brings it back, the process
    goes on without a restart of its own, nothing is missing or doubled."""
    process = bench.start()
    await bench.send(facts()[: KEYS * EACH // 2])
    await bench.until(lambda rows: len(rows) > KEYS, "SELECT 1 FROM effect")
    await bench.kill_server(server)
    await bench.send(facts()[KEYS * EACH // 2 :])
    assert_once_and_in_order(await bench.until(complete, ALL_EFFECTS, seconds=90))
    await bench.until(lambda rows: not rows, "SELECT 1 FROM outbox")
    assert process.poll() is None
    assert await bench.query("SELECT 1 FROM incident UNION ALL SELECT 1 FROM parked") == []
