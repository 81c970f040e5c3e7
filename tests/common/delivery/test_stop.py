"""A graceful stop: exit 0 within 25 seconds, whatever hangs, and nothing is done twice or lost."""

import os
import signal
import time

import pytest
from probe_bench import Bench, deployed

import ctloop.local.state

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]
EFFECTS = "SELECT model, epoch FROM effect WHERE hop = 1 ORDER BY n"
LIMIT_SECONDS = 25


async def test_sigterm_in_the_middle_of_the_stream(bench: Bench) -> None:
    """The chunk at hand is ended, the exit is clean by the books, the next process goes on where it was."""
    process = bench.start()
    await bench.send([deployed(f"m{key}", epoch) for epoch in range(1, 201) for key in range(4)])
    await bench.until(lambda rows: len(rows) > 0, EFFECTS)
    process.terminate()
    assert await bench.ended(process, LIMIT_SECONDS) == 0
    assert [row["clean"] for row in await bench.query("SELECT clean FROM process")] == [True]
    bench.start()
    rows = await bench.until(lambda found: len(found) >= 800, EFFECTS)
    for key in range(4):
        assert [row["epoch"] for row in rows if row["model"] == f"m{key}"] == list(range(1, 201))


async def test_sigterm_while_the_broker_hangs(bench: Bench) -> None:
    """A frozen broker acknowledges nothing and closes nothing: the process ends in time, what it said is in the outbox."""
    stack = ctloop.local.state.read(bench.servers_dir / "k")
    assert stack is not None
    broker = next(one.pid for one in stack.processes if one.name == "kafka")
    assert broker is not None
    process = bench.start()
    await bench.send([deployed("a", 1)])
    await bench.until(lambda rows: len(rows) == 1, EFFECTS)
    await bench.until(lambda rows: not rows, "SELECT 1 FROM outbox")
    os.kill(broker, signal.SIGSTOP)
    try:
        await bench.query(
            """INSERT INTO outbox (topic, key, source, id, headers, payload)
               VALUES ($1, 'k', 'test', gen_random_uuid(), '[]', 'x')""",
            f"{bench.prefix}probe.dead-letters",
        )
        began = time.monotonic()
        process.terminate()
        assert await bench.ended(process, LIMIT_SECONDS) == 0
        assert time.monotonic() - began < LIMIT_SECONDS
    finally:
        os.kill(broker, signal.SIGCONT)
    assert len(await bench.query("SELECT 1 FROM outbox")) == 1
    bench.start()
    await bench.until(lambda rows: not rows, "SELECT 1 FROM outbox")
