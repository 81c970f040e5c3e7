"""The HTTP door: what it refuses and how, and that an answer means the bus has it."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pyarrow as pa

from ctloop_ingestion import door_body
from ctloop_ingestion.domain.bodies import write_arrow

ARROW = "application/vnd.apache.arrow.stream"


async def test_bad_requests_are_problems(world: Any) -> None:
    """400, 404, 413, 415 with a stable code, before anything is on the bus."""
    await world.release()
    cases = [
        (b"", {}, 400, "CT4000"),
        (b"[1, 2]", {}, 400, "CT4001"),
        (b"flight,departs", {}, 400, "CT4001"),
        (b"no arrow", {"content_type": ARROW}, 400, "CT4001"),
        (b"flight", {"content_type": "text/csv"}, 415, "CT4150"),
        (b"{}", {"content_encoding": "gzip"}, 415, "CT4151"),
        (b"{}", {"content_length": str(door_body.BODY_LIMIT + 1)}, 413, "CT4130"),
        (b'{"note": "' + b"a" * 1_000_000 + b'"}', {}, 413, "CT4130"),
    ]
    for body, headers, status, code in cases:
        answer = await world.send(body, **headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


async def test_the_same_request_again_has_the_same_answer_and_one_effect(world: Any) -> None:
    """By Idempotency-Key, or by the body without one; the key with another body is 422."""
    await world.release()
    first = await world.send([world.flight(1)], idempotency_key="k1")
    again = await world.send([world.flight(1)], idempotency_key="k1")
    assert first.json() == again.json()
    other = await world.send([world.flight(2)], idempotency_key="k1")
    assert (other.status_code, other.json()["code"]) == (422, "CT4221")
    without = [await world.send([world.flight(3)]) for _ in range(2)]
    assert without[0].json() == without[1].json()
    landed = await world.landed(1)
    rows = sum(one.rows for one in landed)
    if rows < 2:
        rows = sum(one.rows for one in await world.landed(2))
    assert rows == 2


async def test_large_bodies_become_several_events(world: Any) -> None:
    """Split by rows, none larger than the bus takes, nothing lost, in order."""
    await world.release()
    table = pa.Table.from_pylist([world.flight(one) for one in range(30_000)])
    answer = await world.send(write_arrow(table), content_type=ARROW)
    assert answer.status_code == 202
    assert len(answer.json()["receipts"]) > 1
    validated = 0
    count = 0
    while validated < 30_000:
        count += 1
        validated = sum(one.rows for one in await world.validated(count))
    assert validated == 30_000
    async with world.ingestion.edge.reading() as connection:
        times = await connection.fetch("SELECT arrived, rows FROM arrival ORDER BY number")
    for one, after in pairwise(times):
        assert after["arrived"] - one["arrived"] == timedelta(microseconds=one["rows"])
    state = (await world.door.get("/v1/datasets/flight")).json()
    assert state["rows"] == 30_000
    assert [one["dataset"] for one in (await world.door.get("/v1/datasets")).json()["items"]] == ["flight"]
