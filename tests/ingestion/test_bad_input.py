"""Whatever is sent: a clear error to the sender, or a row in quarantine with its reason and bytes; the good goes on."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from hostile import BOMBS, claims, stream

from ctloop.events.data import DataArrived
from ctloop.events.envelope import ARROW_STREAM, JSON, NDJSON, Envelope
from ctloop.events.values import ObjectRef, Verdict
from ctloop_ingestion.domain.bodies import write_arrow


def arrow(rows: list[dict[str, Any]]) -> bytes:
    """Rows as an Arrow stream."""
    return write_arrow(pa.Table.from_pylist(rows))


def envelope(dataset: str = "flight", content_type: str = NDJSON, **other: Any) -> Envelope:
    """The envelope of a producer outside."""
    return Envelope(
        id=uuid4(),
        source="/test/producer",
        type=DataArrived.type(),
        subject=dataset,
        time=datetime.now(UTC),
        content_type=content_type,
        **other,
    )


async def quarantined_events(world: Any, count: int) -> list[Any]:
    """Events in ingestion's quarantine."""

    async def enough() -> list[Any]:
        async with world.ingestion.edge.reading() as connection:
            rows = await connection.fetch("SELECT reason, payload FROM quarantine ORDER BY 1")
        return rows if len(rows) >= count else []

    return await wait(enough)


async def wait(ask: Any) -> Any:
    import asyncio

    async with asyncio.timeout(60):
        while not (found := await ask()):
            await asyncio.sleep(0.05)
    return found


async def test_bad_bodies_on_the_bus_are_quarantined_with_their_bytes(world: Any) -> None:
    """Undecodable, truncated, unsupported, grown too large: each with its reason, and the next good one lands."""
    await world.release()
    huge = b'{"uri":"s3://b/k","sha256":"%s","bytes":9999999999,"format":"arrow"}' % (b"0" * 64)
    bad = [
        ("truncated", ARROW_STREAM, arrow([world.flight(1)])[:-12]),
        ("truncated", ARROW_STREAM, b""),
        ("truncated", ARROW_STREAM, claims(-7)),
        ("schema-mismatch", ARROW_STREAM, stream(pa.table([pa.array([1]), pa.array([2])], names=["x", "x"]))),
        ("unsupported-format", "text/csv", b"flight,departs\n"),
        ("undecodable", JSON, b'{"uri": 7}'),
        ("too-large", JSON, huge),
        *(("too-large", ARROW_STREAM, BOMBS[name]()) for name in ("a claim of 2^62 bytes", "dictionary", "runs", "views",
                                                                  "rows of nulls")),
    ]  # fmt: skip
    for _, content_type, body in bad:
        await world.produce(DataArrived.topic, envelope(content_type=content_type), body)
    odd = [
        (b"no bar", [], "undecodable"),
        (b"default|flight" + b"k" * 20_000, [], "too-large"),
        (b"default|flight", [("ce_time", b"0001-01-01T00:00:00+14:00")], "undecodable"),
        (b"default|flight", [("content-type", NDJSON.encode()), ("x", b"a" * 100_000)], "too-large"),
    ]
    for key, headers, _ in odd:
        await world.raw(DataArrived.topic, b"{}", key=key, headers=headers)
    await world.produce(DataArrived.topic, envelope(content_type=ARROW_STREAM), arrow([world.flight(2)]))
    (said,) = await world.validated(1)
    assert said.rows == 1
    rows = await quarantined_events(world, len(bad) + len(odd))
    assert sorted(row["reason"] for row in rows) == sorted([*(one[0] for one in bad), *(one[2] for one in odd)])
    assert {bytes(row["payload"]) for row in rows} == {one[2] for one in bad} | {b"{}"}


async def test_no_arrival_stops_the_batch_it_is_in(world: Any) -> None:
    """Arrivals that are what they say and still cannot be read as the dataset's, together with good ones: all land."""
    await world.release()
    far = pa.table({"flight": ["T1", "T2"], "departs": pa.array([2**62, 2**62], pa.timestamp("s")), "carrier": ["UA"] * 2,
                    "distance": [1.0, 1.0]})  # fmt: skip
    nested = pa.table({"flight": ["N1"], "departs": [{"a": 1}]})
    deep = b'{"flight": ' + b"[" * 300 + b"]" * 300 + b"}"
    refs = [
        ObjectRef(
            uri=f"s3://{world.environment['CTLOOP_S3__BUCKET']}/{key}", sha256="0" * 64, bytes=9, format="parquet"
        )
        for key in ("../../etc/passwd", "a\0b", "k" * 950, "a//b/./c", "%2e%2e/x", "\ud7ff\uffff", "?x=1&y", "staged")
    ]
    for number in range(3):
        await world.produce(DataArrived.topic, envelope(), json.dumps(world.flight(number)).encode())
        await world.produce(DataArrived.topic, envelope(content_type=ARROW_STREAM), stream((far, nested, far)[number]))
        await world.produce(DataArrived.topic, envelope(), deep)
    for ref in refs:
        await world.produce(DataArrived.topic, envelope(content_type=JSON), ref.model_dump_json().encode())
    await world.produce(DataArrived.topic, envelope(), json.dumps(world.flight(9)).encode())

    async def all_rows() -> Any:
        async with world.validation.edge.reading() as connection:
            rows = await connection.fetch("SELECT reasons, row FROM quarantined_row")
            done = await connection.fetchval("SELECT records FROM dataset")
        return rows if done == 4 and len(rows) == 4 + 1 + 3 + len(refs) else None

    rows = await wait(all_rows)
    reasons = [row["reasons"][0] for row in rows]
    assert reasons.count("departs: not a time") == 4
    assert sum("schema-mismatch" in one for one in reasons) == 1
    assert [row["row"] for row in rows if "nested too deep" in row["reasons"][0]] == [deep.decode()] * 3
    assert sum("object-missing" in one for one in reasons) == len(refs)


@pytest.mark.timeout(180)
async def test_an_unknown_dataset_waits_and_is_then_quarantined(world: Any) -> None:
    """On the bus it is parked: a model file that is applied in time releases it. At the door it is 404 at once."""
    await world.produce(DataArrived.topic, envelope(), json.dumps(world.flight(1)).encode())
    answer = await world.door.post(
        "/v1/datasets/nobody/records", content=b"{}", headers={"content-type": "application/x-ndjson"}
    )
    assert (answer.status_code, answer.json()["code"]) == (404, "CT4041")
    await world.release()
    assert (await world.validated(1))[0].rows == 1
    await world.produce(DataArrived.topic, envelope("nobody"), b"{}")
    (row,) = await quarantined_events(world, 1)
    assert row["reason"] == "unknown-dataset"


async def test_bad_rows_are_quarantined_and_good_ones_go_on(world: Any) -> None:
    """NaN, Inf, NUL, wrong types, broken rules, broken lines, reused ids, in one body, by NDJSON and by Arrow."""
    await world.release()
    whole = [world.flight(1), world.flight(2, distance=-1), world.flight(3, carrier="XX"), world.flight(1, distance=7)]
    lines = [
        *(json.dumps(row).encode() for row in whole),
        json.dumps(world.flight(4, note="a\0b")).encode(),
        json.dumps(world.flight(5, departs="soon")).encode(),
        json.dumps(world.flight(6, distance=float("nan"))).encode(),
        b'{"flight": "F7", ',
        json.dumps(world.flight(8)).encode(),
    ]
    assert (await world.send(b"\n".join(lines))).status_code == 202
    (said,) = await world.validated(1)
    assert (said.verdict, said.rows) == (Verdict.PASSED, 2)
    assert sum(rule.rows for rule in said.quarantined) == 7
    assert "distance: greater than 0" in {rule.rule for rule in said.quarantined}
    await world.produce(
        DataArrived.topic,
        envelope(content_type=ARROW_STREAM),
        arrow([world.flight(9, distance=float("inf")), world.flight(10), world.flight(11, distance=float("nan"))]),
    )
    second = (await world.validated(2))[1]
    assert [(rule.rule, rule.rows) for rule in second.quarantined] == [("distance: not a number or not finite", 2)]
    answer = (await world.answers.get("/v1/datasets/flight/quarantine?limit=50")).json()
    assert len(answer["items"]) == 9
    assert any(row["row"] == '{"flight": "F7", ' for row in answer["items"])
    assert any("id-reused" in reason for row in answer["items"] for reason in row["reasons"])


async def test_repeats_make_no_new_version(world: Any) -> None:
    """The same event again is one arrival; the same content again is dropped and counted."""
    await world.release()
    first = envelope(content_type=ARROW_STREAM)
    for _ in range(3):
        await world.produce(DataArrived.topic, first, arrow([world.flight(1, late=True)]))
    assert (await world.validated(1))[0].rows == 1
    await world.produce(DataArrived.topic, envelope(content_type=ARROW_STREAM), arrow([world.flight(1, late=True)]))
    said = (await world.validated(2))[1]
    assert (said.rows, said.labelled, said.duplicates, said.version.n) == (0, 0, 1, 1)
    versions = (await world.answers.get("/v1/datasets/flight/versions")).json()
    assert [one["n"] for one in versions["items"]] == [1]


async def test_a_batch_of_nothing_but_bad_rows_fails(world: Any) -> None:
    """The verdict says so; there is no version, and the loop goes on."""
    await world.release()
    await world.send([world.flight(1, distance=-1)])
    (said,) = await world.validated(1)
    assert (said.verdict, said.version.n, said.rows) == (Verdict.FAILED, 0, 0)
    await world.send([world.flight(2)])
    assert (await world.validated(2))[1].version.n == 1


async def test_references_are_verified(world: Any) -> None:
    """A good object lands; one that is missing, of other bytes or of another bucket is quarantined with its reference."""
    await world.release()
    objects = world.validation.jobs.objects
    good = await objects.put_content("uploads", arrow([world.flight(1)]), format="arrow")
    lying = good.model_copy(update={"sha256": "0" * 64})
    missing = good.model_copy(update={"uri": good.uri + "x"})
    foreign = ObjectRef(uri="s3://elsewhere/x", sha256="0" * 64, bytes=1, format="arrow")
    for ref in (lying, missing, foreign, good):
        await world.produce(DataArrived.topic, envelope(content_type=JSON), ref.model_dump_json().encode())

    async def all_rows() -> Any:
        async with world.validation.edge.reading() as connection:
            rows = await connection.fetch("SELECT reasons FROM quarantined_row")
            done = await connection.fetchval("SELECT records FROM dataset")
        return rows if len(rows) == 3 and done == 1 else None

    reasons = sorted(row["reasons"][0].split(":")[1].strip() for row in await wait(all_rows))
    assert reasons == ["object-mismatch", "object-missing", "object-missing"]
