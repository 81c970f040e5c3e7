"""What the books say of a partition: a gap, a topic made anew, records removed unread, a listener that raises."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from probe import create_app
from probe_bench import Bench, deployed

from ctloop.events.model import ModelDeployed
from ctloop.platform.delivery import consume

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]
EFFECTS = "SELECT model, epoch FROM effect WHERE hop = 1 ORDER BY n"
INCIDENTS = "SELECT kind, message FROM incident ORDER BY n"


def epochs(rows: list[Any], model: str) -> list[int]:
    return [row["epoch"] for row in rows if row["model"] == model]


@pytest.fixture
async def consumers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Any]]:
    """The probe runs in this process, as process 0 of its group; its Kafka consumers, the newest last."""
    made: list[Any] = []
    make = consume.ConsumeLoop._make_consumer  # pyright: ignore[reportPrivateUsage]

    def kept(loop: consume.ConsumeLoop) -> Any:
        made.append(make(loop))
        return made[-1]

    monkeypatch.setattr(consume.ConsumeLoop, "_make_consumer", kept)
    service = create_app(bench.settings())
    async with service.app.router.lifespan_context(service.app):
        yield made


async def test_a_gap_is_seen_and_closed(bench: Bench, consumers: list[Any]) -> None:
    """A consumer that skips records is noticed by the next one: an incident, back to the first missing, all in order."""
    await bench.send([deployed("a", epoch) for epoch in range(1, 4)])
    await bench.until(lambda rows: len(rows) == 3, EFFECTS)
    consumer = consumers[-1]
    partitions = consumer.assignment()
    consumer.pause(*partitions)
    await bench.send([deployed("a", epoch) for epoch in range(4, 9)])
    ends = await consumer.end_offsets(partitions)
    partition = max(ends, key=lambda one: ends[one])
    consumer.seek(partition, 5)
    consumer.resume(*partitions)
    rows = await bench.until(lambda found: len(found) >= 8, EFFECTS)
    assert epochs(rows, "a") == list(range(1, 9))
    found = await bench.query(INCIDENTS)
    assert [row["kind"] for row in found] == ["gap"]
    assert "offsets 3 to 4" in found[0]["message"]


async def test_records_that_were_removed_unread_are_an_incident(bench: Bench) -> None:
    """Retention was faster than we: said once, with the range, and the rest has its effect."""
    process = bench.start()
    await bench.send([deployed("a", 1)])
    await bench.until(lambda rows: len(rows) == 1, EFFECTS)
    process.terminate()
    await bench.ended(process)
    await bench.send([deployed("a", epoch) for epoch in range(2, 7)])
    offset = await bench.query(
        "SELECT part FROM consumer_offset WHERE topic = $1 AND next_offset = 1", ModelDeployed.topic
    )
    partition = TopicPartition(bench.prefix + ModelDeployed.topic, offset[0]["part"])
    admin = AIOKafkaAdminClient(bootstrap_servers=bench.bootstrap)
    await admin.start()
    try:
        await admin.delete_records({partition: RecordsToDelete(4)})
    finally:
        await admin.close()
    bench.start()
    rows = await bench.until(lambda found: len(found) == 3, EFFECTS)
    assert epochs(rows, "a") == [1, 5, 6]
    found = await bench.query(INCIDENTS)
    assert [(row["kind"], row["message"]) for row in found] == [
        ("retention-loss", "offsets 1 to 3 were removed before they were read")
    ]


@pytest.mark.parametrize("again", [2, 12], ids=["shorter", "longer"])
async def test_a_topic_that_was_made_anew_stops_its_partition_only(bench: Bench, again: int) -> None:
    """Other records, or none, under offsets we have processed: an incident and no effect, while other partitions go on;
    after an operator has deleted the row, the new topic is read from its start."""
    first = bench.start()
    await bench.send([deployed("a", epoch) for epoch in range(1, 6)])
    await bench.until(lambda found: len(found) == 5, EFFECTS)
    await bench.until(lambda found: found == [], "SELECT 1 FROM outbox")
    bench.kill()
    await bench.remake_topic(ModelDeployed.topic)
    await bench.send([deployed("a", epoch) for epoch in range(101, 101 + again)])
    bench.start()
    rows = await bench.until(lambda found: bool(found), INCIDENTS)
    assert rows[0]["kind"] == "stopped"
    assert "re-created" in rows[0]["message"]
    await bench.send([deployed(f"b{key}", 1) for key in range(8)])
    in_other_partitions = "SELECT model, epoch FROM effect WHERE hop = 1 AND model <> 'a'"
    await bench.until(lambda found: len(found) >= 4, in_other_partitions)
    assert epochs(await bench.query(EFFECTS), "a") == [1, 2, 3, 4, 5]
    bench.kill()
    await bench.query("DELETE FROM consumer_offset WHERE topic = $1 AND next_offset >= 5", ModelDeployed.topic)
    bench.start()
    rows = await bench.until(lambda found: len(found) == 5 + again + 8, EFFECTS)
    assert epochs(rows, "a") == [1, 2, 3, 4, 5, *range(101, 101 + again)]
    assert first.returncode is not None


async def test_strangers_records_in_a_topic_made_anew_are_not_taken_for_the_old_ones(bench: Bench) -> None:
    """Without ids of their own they are named by their place; the same place in another topic is another record."""
    bench.start()
    headers = [(name, value) for name, value in bench.headers(deployed("a", 1)) if name != "ce_id"]
    await bench.send_raw(deployed("a", 1).model_dump_json().encode(), b"default|a", headers)
    await bench.until(lambda found: len(found) == 1, EFFECTS)
    bench.kill()
    await bench.remake_topic(ModelDeployed.topic)
    await bench.send_raw(deployed("a", 2).model_dump_json().encode(), b"default|a", headers)
    bench.start()
    rows = await bench.until(lambda found: bool(found), INCIDENTS)
    assert "re-created" in rows[0]["message"]


async def test_a_listener_that_raises_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Kafka hands out records before our listener has run, and when it raised: the books decide, not the listener."""

    def raises(listener: object, partitions: object) -> None:
        raise ZeroDivisionError("the listener")

    listener = consume._Marks  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(listener, "on_partitions_assigned", raises)
    monkeypatch.setattr(listener, "on_partitions_revoked", raises)
    service = create_app(bench.settings())
    async with service.app.router.lifespan_context(service.app):
        await bench.send([deployed(f"m{key}", 1) for key in range(8)])
        await bench.until(lambda rows: len(rows) == 8, EFFECTS)
        guest = bench.start(ordinal=1)
        await bench.shared(2)
        await bench.send([deployed(f"m{key}", 2) for key in range(8)])
        await bench.until(lambda rows: len(rows) == 16, EFFECTS)
        guest.kill()
        await bench.ended(guest)
        again = bench.start(ordinal=1)
        await bench.send([deployed(f"m{key}", 3) for key in range(8)])
        rows = await bench.until(lambda found: len(found) == 24, EFFECTS)
        again.terminate()
        await bench.ended(again)
    assert [epochs(rows, f"m{key}") for key in range(8)] == [[1, 2, 3]] * 8
