"""Dead letters as an operator meets them: listed, looked at, played again by the command, once."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from probe_bench import Bench, deployed

from ctloop.events.model import ModelDeployed
from ctloop.events.topics import PARTITIONS, dead_letters
from ctloop.problems import Exit

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]
EFFECTS = "SELECT model, epoch FROM effect WHERE hop = 1 ORDER BY n"
GIVE_UP = "UPDATE parked SET attempts = 4, not_before = clock_timestamp() WHERE reason <> 'behind'"


async def ends(bench: Bench, topic: str) -> int:
    """How many records a topic has had."""
    consumer: Any = AIOKafkaConsumer(bootstrap_servers=bench.bootstrap)
    await consumer.start()
    try:
        found = await consumer.end_offsets([TopicPartition(bench.prefix + topic, part) for part in range(PARTITIONS)])
        return sum(found.values())
    finally:
        await consumer.stop()


async def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ctloop."""
    ctloop = str(Path(sys.executable).with_name("ctloop"))
    return await asyncio.to_thread(subprocess.run, [ctloop, *arguments], capture_output=True, text=True, check=False)


async def test_ctloop_dlq_replay(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug makes a dead letter, the bug is mended, the command plays it again: one effect, nothing on Kafka again."""
    bench.start()
    monkeypatch.setenv("CTLOOP_MONITORING__URL", bench.url)  # the probe answers as any service would
    await bench.send([deployed("a", 1, "mendable"), deployed("a", 2)])
    await bench.until(lambda rows: len(rows) == 2, "SELECT 1 FROM parked")
    await bench.query(GIVE_UP)
    await bench.until(lambda rows: len(rows) == 1, "SELECT 1 FROM dead_event")
    await bench.until(lambda rows: [row["epoch"] for row in rows] == [2], EFFECTS)
    listed = json.loads((await command("dlq", "ls", "monitoring", "--json")).stdout)  # one line: there is one
    assert (listed["n"], listed["reason"], listed["attempts"]) == (1, "unexpected", 5)
    shown = json.loads((await command("dlq", "show", "monitoring", "1")).stdout)
    assert json.loads(shown["payload"])["replica"] == "mendable"
    records = await ends(bench, ModelDeployed.topic)
    await bench.query("INSERT INTO mended VALUES ('a')")
    replayed = await command("dlq", "replay", "monitoring", "1")
    assert (replayed.returncode, json.loads(replayed.stdout)) == (0, {"n": 1, "state": "REPLAYED"})
    again = await command("dlq", "replay", "monitoring", "1")
    assert again.returncode == Exit.CONFLICT
    await bench.until(lambda rows: [row["epoch"] for row in rows] == [2, 1], EFFECTS)
    assert await bench.query("SELECT 1 FROM parked UNION ALL SELECT 1 FROM dead_event WHERE state = 'DEAD'") == []
    assert await ends(bench, ModelDeployed.topic) == records


async def test_a_replayed_killer_does_not_kill_for_ever(bench: Bench) -> None:
    """What kills the process from the parked events is counted too: dead again after three more deaths."""
    bench.start()
    await bench.send([deployed("a", 1)])
    await bench.until(lambda rows: len(rows) == 1, EFFECTS)
    await bench.query(
        """INSERT INTO parked (topic, part, "offset", key, source, id, headers, payload, reason)
           VALUES ($1, 0, 7, 'default|a', 'test', gen_random_uuid(), $2, $3, 'replay')""",
        ModelDeployed.topic,
        json.dumps([(name, value.decode()) for name, value in bench.headers(deployed("a", 9))]),
        deployed("a", 9, "killer").model_dump_json().encode(),
    )
    for _ in range(3):
        assert await bench.ended(bench.processes[-1]) == -signal.SIGKILL
        bench.start()
    rows = await bench.until(lambda found: len(found) == 1, "SELECT message FROM dead_event")
    assert "the process died 3 times" in rows[0]["message"]
    assert bench.processes[-1].poll() is None
    await bench.until(lambda found: not found, "SELECT 1 FROM parked UNION ALL SELECT 1 FROM attempt")


async def test_what_is_too_large_stops_nobody(bench: Bench) -> None:
    """A fact too large to be said is a dead letter of its cause. A dead letter too large for its topic goes without its
    bytes, which its row has. A key too long for an index is quarantined. Everything else flows."""
    bench.start()
    await bench.send([deployed("a", 1, "says too much")])
    large = deployed("b", 1, "bug").model_dump_json().encode()
    large = large[:-1] + b', "pad": "' + b"x" * (1_044_000 - len(large)) + b'"}'
    await bench.send_raw(large, b"default|b", bench.headers(deployed("b", 1)))
    await bench.send_raw(large[:500], b"k" * 50_000, bench.headers(deployed("c", 1)))
    await bench.until(lambda rows: len(rows) == 2, "SELECT 1 FROM parked")
    await bench.query(GIVE_UP)
    rows = await bench.until(
        lambda found: len(found) == 2, "SELECT message, payload FROM dead_event ORDER BY length(payload)"
    )
    assert "put the large part into an object" in rows[0]["message"]
    assert bytes(rows[1]["payload"]) == large
    await bench.until(
        lambda found: len(found) == 1, "SELECT 1 FROM quarantine WHERE message LIKE 'a key of 50000 bytes%'"
    )
    await bench.until(lambda found: found == [], "SELECT 1 FROM outbox")
    assert await ends(bench, dead_letters("probe")) == 2
    await bench.send([deployed("d", 1)])
    await bench.until(lambda found: [row["model"] for row in found] == ["d"], EFFECTS)
