"""Every record ends in exactly one disposition, and the good ones do not wait for the bad."""

import asyncio
import signal
from typing import Any

import pytest
from probe_bench import Bench, deployed, envelope_of

from ctloop.events.model import ModelDeployed
from ctloop.events.topics import dead_letters

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]
EFFECTS = "SELECT model, epoch FROM effect WHERE hop = 1 ORDER BY n"


def whole() -> dict[str, bytes]:
    return dict(envelope_of(deployed("m", 1)).headers())


def poison() -> list[tuple[bytes | None, bytes | None, list[tuple[str, Any]]]]:
    """(value, key, headers) of records that are not our contract, each in its own way."""
    body = deployed("m", 1).model_dump_json().encode()
    good = whole()

    def headers(**changed: bytes | None) -> list[tuple[str, Any]]:
        return list({**good, **changed}.items())

    return [
        (None, b"default|m", headers(ce_id=b"a tombstone")),
        (b"", b"default|m", headers(ce_id=b"empty")),
        (b"\xff\xfe\x00", b"default|m", headers(ce_id=b"garbage")),
        (b'{"model": "m"}', b"default|m", headers(ce_id=b"fields missing")),
        (body.replace(b"0.0", b"NaN"), b"default|m", headers(ce_id=b"NaN")),
        (body.replace(b"serving-0", b"a\\u0000b"), b"default|m", headers(ce_id=b"NUL")),
        (b"[" * 100_000, b"default|m", headers(ce_id=b"deep")),
        (body, b"default|m", []),
        (body, b"\xff\xff", headers(ce_id=b"no subject", ce_subject=b"")),
        (body, b"default|m", headers(ce_id=b"NUL in the subject", ce_subject=b"m\0")),
        (body, b"k" * 20_000, headers(ce_id=b"a key no index holds")),
        (body, None, headers(ce_id=b"another type", ce_type=b"io.ctloop.something.v9")),
        (body, b"default|m", headers(ce_id=b"bad time", ce_time=b"yesterday")),
        (body, b"default|m", headers(ce_id=b"null header", ce_time=None)),
        (body, b"default|m", headers(ce_id=b"not UTF-8", ce_type=b"\xff\xfe")),
        (body, b"default|m", headers(ce_id=b"content type", **{"content-type": b"text/plain"})),
    ]


async def test_poison_is_kept_with_its_bytes_and_the_rest_goes_on(bench: Bench) -> None:
    """What is not our contract is quarantined, once, with reason and bytes; facts before and after it have effect."""
    bench.start()
    await bench.send([deployed("m", 1)])
    bad = poison()
    for value, key, headers in bad:
        await bench.send_raw(value, key, headers)
    await bench.send([deployed("m", 2)])
    rows = await bench.until(lambda found: len(found) >= len(bad), "SELECT * FROM quarantine")
    assert len(rows) == len(bad)
    assert {row["reason"] for row in rows} == {"undecodable", "too-large"}
    assert {bytes(row["payload"]) for row in rows} == {value or b"" for value, _, _ in bad}
    await bench.until(lambda found: [row["epoch"] for row in found] == [1, 2], EFFECTS)
    assert await bench.query("SELECT 1 FROM parked UNION ALL SELECT 1 FROM dead_event") == []


async def test_a_record_the_client_cannot_read_stops_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header's name that is no UTF-8: the place is quarantined, what stands before and after it has effect."""
    from aiokafka.producer import message_accumulator, producer
    from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

    class Name(str):
        def encode(self, *_: Any) -> bytes:
            return b"\xff\xfe"

    bench.start()
    await bench.send([deployed("m", 1)])
    with monkeypatch.context() as patch:  # the compiled one would not write such a name
        for module in (message_accumulator, producer):
            patch.setattr(module, "DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
        await bench.send_raw(b"{}", b"default|m", [(Name("xx"), b"v")])
    await bench.send([deployed("m", 2)])
    rows = await bench.until(lambda found: len(found) == 1, "SELECT * FROM quarantine")
    assert (rows[0]["reason"], "not UTF-8" in rows[0]["message"]) == ("undecodable", True)
    await bench.until(lambda found: [row["epoch"] for row in found] == [1, 2], EFFECTS)


async def test_order_is_kept_behind_a_parked_event(bench: Bench) -> None:
    """A bug parks its key, later events of the key wait behind it; other keys flow; at last it is dead, and they go on."""
    bench.start()
    await bench.send([deployed("a", 1, "bug"), *(deployed("a", epoch) for epoch in (2, 3)), deployed("b", 1)])
    await bench.until(lambda found: len(found) == 1 and found[0]["model"] == "b", EFFECTS)
    await bench.until(lambda found: len(found) == 3, "SELECT 1 FROM parked")
    await bench.query("UPDATE parked SET attempts = 4, not_before = clock_timestamp() WHERE attempts > 0")
    rows = await bench.until(lambda found: len(found) == 3, EFFECTS)
    assert [(row["model"], row["epoch"]) for row in rows] == [("b", 1), ("a", 2), ("a", 3)]
    dead = await bench.query("SELECT * FROM dead_event")
    assert [(one["reason"], one["attempts"]) for one in dead] == [("unexpected", 5)]
    assert "ZeroDivisionError" in dead[0]["message"]


@pytest.mark.parametrize(
    ("replica", "reason"),
    [("unlucky", "exhausted"), ("like a lost database", "unexpected"), ("stranger", "unknown-model")],
)
async def test_what_may_work_later_is_parked(bench: Bench, replica: str, reason: str) -> None:
    """Also when a handler fails as a lost database would: it is there, so only that key waits."""
    bench.start()
    await bench.send([deployed("a", 1, replica), deployed("b", 1)])
    rows = await bench.until(lambda found: len(found) == 1, "SELECT reason FROM parked")
    assert rows[0]["reason"] == reason
    await bench.until(lambda found: [row["model"] for row in found] == ["b"], EFFECTS)


async def test_what_can_never_succeed_is_quarantined_at_once(bench: Bench) -> None:
    """A well-formed fact that is refused: no second attempt, and its chunk is not lost with it."""
    bench.start()
    await bench.send([deployed("a", 1), deployed("a", 2, "impossible"), deployed("a", 3)])
    rows = await bench.until(lambda found: len(found) == 1, "SELECT reason, message FROM quarantine")
    assert (rows[0]["reason"], rows[0]["message"]) == ("rejected", "this can never succeed")
    await bench.until(lambda found: [row["epoch"] for row in found] == [1, 3], EFFECTS)


async def test_a_record_that_kills_the_process_is_dead_after_a_few_deaths(bench: Bench) -> None:
    """The attempt ledger finds it, in the middle of a chunk too; what stands around it has one effect."""
    await bench.send([deployed("a", 1), deployed("a", 2, "killer"), deployed("a", 3)])
    deaths = 0
    while deaths < 8 and not await bench.query("SELECT 1 FROM dead_event"):
        process = bench.start()
        dead = asyncio.create_task(bench.until(lambda found: bool(found), "SELECT 1 FROM dead_event"))
        ended = asyncio.create_task(asyncio.to_thread(process.wait))
        await asyncio.wait({dead, ended}, return_when=asyncio.FIRST_COMPLETED)
        dead.cancel()
        if process.poll() is not None:
            assert process.returncode == -signal.SIGKILL
            deaths += 1
    assert 3 <= deaths <= 5
    await bench.until(lambda found: [row["epoch"] for row in found] == [1, 3], EFFECTS)


async def test_a_dead_letter_is_on_the_topic_with_its_story(bench: Bench) -> None:
    """Original bytes, key and headers, and where, why and how often it failed."""
    from aiokafka import AIOKafkaConsumer

    bench.start()
    await bench.send([deployed("a", 1, "bug")])
    await bench.until(lambda found: len(found) == 1, "SELECT 1 FROM parked")
    await bench.query("UPDATE parked SET attempts = 4, not_before = clock_timestamp()")
    consumer: Any = AIOKafkaConsumer(
        bench.prefix + dead_letters("probe"), bootstrap_servers=bench.bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        record = await asyncio.wait_for(consumer.getone(), 30)
    finally:
        await consumer.stop()
    headers = {name: value.decode() for name, value in record.headers}
    event = deployed("a", 1, "bug")
    assert (record.key, record.value) == (b"default|a", event.model_dump_json().encode())
    assert headers["ce_id"] == str(envelope_of(event).id)
    assert (headers["x-dlq-original-topic"], headers["x-dlq-attempts"]) == (ModelDeployed.topic, "5")
