"""A loop that is dead, stuck, or turns for nothing is seen at /livez; what a handler does wrong hits its own event."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from probe import create_app
from probe_bench import Bench, deployed

from ctloop.platform.delivery import consume, edge
from ctloop.platform.delivery.liveness import Liveness
from ctloop.platform.service import Service

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]
EFFECTS = "SELECT model, epoch FROM effect WHERE hop = 1 ORDER BY n"


class Probe:
    """The probe in this process, under a clock that can be set forward."""

    def __init__(self, bench: Bench) -> None:
        self.later = 0.0
        self.service: Service = create_app(bench.settings())
        self.service.liveness = Liveness(lambda: time.monotonic() + self.later)
        transport = httpx.ASGITransport(self.service.app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://probe")

    async def livez(self, wanted: Callable[[dict[str, str], int], bool]) -> None:
        """Wait for an answer of /livez: what is stuck, and the status."""
        async with asyncio.timeout(30):
            while True:
                answer = await self.http.get("/livez")
                if wanted(answer.json()["stuck"], answer.status_code):
                    return
                await asyncio.sleep(0.05)


@pytest.fixture
async def probe(bench: Bench) -> AsyncIterator[Probe]:
    probe = Probe(bench)
    async with probe.service.app.router.lifespan_context(probe.service.app), probe.http:
        await bench.send([deployed("first", 1)])
        await bench.until(lambda rows: len(rows) == 1, EFFECTS)
        yield probe


async def test_a_stuck_handler_is_seen(bench: Bench, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where even its budget does not end it, the loop is silent: 503, and the process is started anew."""
    monkeypatch.setattr(edge, "HANDLER_SECONDS", 600.0)
    await bench.send([deployed("a", 1, "hangs")])
    inside = "SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()"
    await bench.until(lambda rows: bool(rows), inside)
    probe.later = 61.0
    await probe.livez(lambda stuck, status: list(stuck) == ["consume"] and status == 503)
    assert (await probe.http.get("/readyz")).status_code == 503


async def test_a_handler_that_hangs_is_given_up(bench: Bench, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its event is parked, its key waits, other keys go on."""
    monkeypatch.setattr(edge, "HANDLER_SECONDS", 0.3)
    await bench.send([deployed("a", 1, "hangs"), deployed("a", 2), deployed("b", 1)])
    rows = await bench.until(lambda found: len(found) == 2, "SELECT reason, message FROM parked ORDER BY seq")
    assert [row["reason"] for row in rows] == ["unexpected", "behind"]
    assert "longer than" in rows[0]["message"]
    await bench.until(lambda found: [row["model"] for row in found] == ["first", "b"], EFFECTS)


async def test_a_handler_that_leaks_a_cancellation_ends_no_loop(bench: Bench, probe: Probe) -> None:
    """CancelledError is no exception of Python's usual kind: one leak must not end the consume loop unseen."""
    await bench.send([deployed("a", 1, "leaks"), deployed("b", 1)])
    rows = await bench.until(lambda found: len(found) == 1, "SELECT reason, message FROM parked")
    assert "leaked a CancelledError" in rows[0]["message"]
    await bench.send([deployed("b", 2)])
    await bench.until(lambda found: [row["epoch"] for row in found if row["model"] == "b"] == [1, 2], EFFECTS)


async def test_a_loop_that_dies_is_started_again(bench: Bench, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a cancellation nobody asked for; until it turns again the service is not ready."""
    turn = consume.ConsumeLoop._turn  # pyright: ignore[reportPrivateUsage]
    deaths: list[BaseException] = [asyncio.CancelledError(), ZeroDivisionError()]
    not_ready: list[int] = []

    async def dies(loop: Any) -> None:
        if deaths:
            raise deaths.pop()
        await turn(loop)

    monkeypatch.setattr(consume.ConsumeLoop, "_turn", dies)
    async with asyncio.timeout(20):
        while deaths:
            not_ready.append((await probe.http.get("/readyz")).status_code)
            await asyncio.sleep(0.01)
    assert 503 in not_ready
    await bench.send([deployed("a", 1)])
    await bench.until(lambda rows: len(rows) == 2, EFFECTS)
    await probe.livez(lambda stuck, status: status == 200)


async def test_a_consumer_that_hands_out_nothing_is_seen(
    bench: Bench, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop turns, records wait in Kafka, none comes: stuck. And well again when they come."""
    consumers: list[Any] = []
    getmany = consume.AIOKafkaConsumer.getmany

    async def nothing(consumer: Any, **options: Any) -> dict[Any, Any]:
        consumers.append(consumer)
        await asyncio.sleep(0.05)
        return {}

    monkeypatch.setattr(consume, "STANDSTILL_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(consume.AIOKafkaConsumer, "getmany", nothing)
    await bench.send([deployed("a", 1)])
    await asyncio.sleep(11)  # the watch sleeps as long as it was told before
    probe.later = 61.0
    await probe.livez(lambda stuck, status: list(stuck) == ["fetch"] and status == 503)
    monkeypatch.setattr(consume.AIOKafkaConsumer, "getmany", getmany)
    await bench.until(lambda rows: len(rows) == 2, EFFECTS)
    await probe.livez(lambda stuck, status: status == 200)
