"""The HTTP door against whoever: names, headers, keys, bodies that lie, and more than can be taken."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pyarrow as pa
import pytest
from fastapi import FastAPI
from hostile import BOMBS, stream

from ctloop.platform.delivery import Refused
from ctloop.platform.http import install_problems
from ctloop.platform.service import on_refused
from ctloop_ingestion import door_body
from ctloop_ingestion.api import create_api
from ctloop_ingestion.backlog import Patience
from ctloop_ingestion.kafka_door import KafkaDoor
from ctloop_ingestion.store import IngestionStore

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
REFERENCE = {"uri": "s3://ctloop/x", "sha256": "0" * 64, "bytes": 1, "format": "parquet"}


def referring(**change: Any) -> bytes:
    """A reference's JSON."""
    return json.dumps(REFERENCE | change).encode()


BODIES: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "white space": (b" \n\r\n ", {}, 400, "CT4001"),
    "byte order mark": (b'\xef\xbb\xbf{"flight": "F1"}', {}, 400, "CT4001"),
    "an array of rows": (b'[{"flight": "F1"}]', {}, 400, "CT4001"),
    "deep": (b'{"flight": ' + b"[" * 100_000, {}, 400, "CT4001"),
    "1e400 first": (b'{"distance": 1e400}', {}, 400, "CT4001"),
    "a lone surrogate first": (b'{"flight": "\\ud800"}', {}, 400, "CT4001"),
    "truncated arrow": (stream(pa.table({"flight": ["F1"] * 100}))[:-30], {"content_type": ARROW}, 400, "CT4001"),
    "arrow without columns": (stream(pa.table({})), {"content_type": ARROW}, 202, ""),
    "a claim of 2^62 bytes": (BOMBS["a claim of 2^62 bytes"](), {"content_type": ARROW}, 413, "CT4130"),
    "dictionary bomb": (BOMBS["dictionary"](), {"content_type": ARROW}, 413, "CT4130"),
    "rows of nulls": (BOMBS["rows of nulls"](), {"content_type": ARROW}, 413, "CT4130"),
    "gzip": (gzip.compress(b'{"flight": "F1"}'), {"content_encoding": "gzip"}, 415, "CT4151"),
    "gzip unsaid": (gzip.compress(b'{"flight": "F1"}'), {}, 400, "CT4001"),
    "no content type": (b"{}", {"content_type": ""}, 415, "CT4150"),
    "a list of content types": (b"{}", {"content_type": "application/x-ndjson, text/csv"}, 415, "CT4150"),
    "a reference that is none": (b"[1]", {"content_type": JSON}, 400, "CT4001"),
    "a reference to csv": (referring(format="csv"), {"content_type": JSON}, 415, "CT4150"),
    "a reference to a huge object": (referring(bytes=1 << 60), {"content_type": JSON}, 413, "CT4130"),
    "a reference beyond int64": (referring(bytes=10**30), {"content_type": JSON}, 413, "CT4130"),
    "a reference of negative size": (referring(bytes=-1), {"content_type": JSON}, 400, "CT4001"),
    "a reference with a long uri": (
        referring(uri="s3://ctloop/" + "a" * 10_000),
        {"content_type": JSON},
        400,
        "CT4001",
    ),
    "a key of 10 kB": (b'{"flight": "F1"}', {"idempotency_key": "k" * 10_000}, 422, "CT4220"),
    "a lying length": (b'{"flight": "F1"}', {"content_length": str(1 << 40)}, 413, "CT4130"),
}


async def test_each_bad_body_is_a_problem_with_its_code(world: Any) -> None:
    """400, 413, 415, 422, each with what to do, before anything is on the bus; the door goes on."""
    await world.release()
    for name, (body, headers, status, code) in BODIES.items():
        answer = await world.send(body, **headers)
        assert answer.status_code == status, (name, answer.text)
        if code:
            assert answer.headers["content-type"] == "application/problem+json", name
            assert (answer.json()["code"], bool(answer.json()["hint"])) == (code, True), name
            assert len(answer.content) < 2000, name
    assert (await world.send([world.flight(1)])).status_code == 202


NAMES = {
    "nobody": (404, "CT4041"),
    "n" * 10_000: (404, "CT4041"),
    "late-flights.predictions": (404, "CT4041"),
    "%00": (400, "CT4002"),
    "a%00b": (400, "CT4002"),
    "..%2f..%2fetc%2fpasswd": (404, "CT4040"),
    "%2e%2e": (404, "CT4041"),
    "flight%0d%0ax-evil: 1": (404, "CT4041"),
    "flight';DROP TABLE arrival;--": (404, "CT4041"),
    "flight%20": (404, "CT4041"),
    "FLIGHT": (404, "CT4041"),
    "%ff%fe": (404, "CT4041"),
    "%f0%9f%92%a9": (404, "CT4041"),
}


async def test_a_strange_name_is_no_dataset(world: Any) -> None:
    """It reaches no file, no other dataset, no SQL, and is not said back at length."""
    await world.release()
    for name, (status, code) in NAMES.items():
        answer = await world.door.post(
            f"/v1/datasets/{name}/records", content=b"{}", headers={"content-type": "application/x-ndjson"}
        )
        assert (answer.status_code, answer.json()["code"]) == (status, code), (name, answer.text)
        assert answer.json()["hint"] and len(answer.content) < 600
        assert (await world.door.get(f"/v1/datasets/{name}")).status_code == 404
    assert (await world.send([world.flight(1)])).status_code == 202


UNSTORABLE = ("/v1/pipelines/%00", "/v1/dlq?state=%00", "/v1/dlq/99999999999999999999",
              "/v1/dlq?after=99999999999999999999", "/v1/quarantine/events?reason=%00",
              "/v1/quarantine/events?limit=-1")  # fmt: skip


async def test_no_value_makes_the_platform_fail(world: Any) -> None:
    """What the database has no form for is the sender's mistake, not an outage: 400, never 500 or 503."""
    for path in UNSTORABLE:
        answer = await world.door.get(path)
        assert answer.status_code in (400, 422), (path, answer.text)
        assert answer.json()["code"] in ("CT4002", "CT4220") and answer.json()["hint"]
        assert (await world.door.get(answer.json()["type"])).json()["help"]  # a problem's type can be followed
    assert (await world.door.get("/problems/CT0000")).status_code == 404


async def own_door(world: Any, bus: KafkaDoor, patience: Patience | None = None) -> httpx.AsyncClient:
    """A second door to the same ingestion, with a bus and a patience of the test's."""
    app = FastAPI()
    install_problems(app)
    app.add_exception_handler(Refused, on_refused)
    app.include_router(create_api(IngestionStore(), bus, patience)(world.ingestion.edge))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door")


async def test_a_key_in_flight_is_409_and_with_another_body_422(world: Any) -> None:
    """Until the first request has its answer the same one again is told to wait; nothing is taken twice."""
    await world.release()
    bus: Any = KafkaDoor(world.kafka, world.prefix)
    headers = {"content-type": "application/x-ndjson", "idempotency-key": "k"}
    body, other = (json.dumps(world.flight(number)).encode() for number in (1, 2))
    path = "/v1/datasets/flight/records"
    async with await own_door(world, bus) as door, bus:
        async with bus._opening:  # the first request gets no further than to the bus
            first = asyncio.create_task(door.post(path, content=body, headers=headers))
            await world.value("SELECT 1 FROM door_request WHERE key = 'k'")
            again = await door.post(path, content=body, headers=headers)
            assert (again.status_code, again.json()["code"], again.headers["retry-after"]) == (409, "CT4090", "1")
            another = await door.post(path, content=other, headers=headers)
            assert (another.status_code, another.json()["code"]) == (422, "CT4221")
        answered = await first
        assert answered.status_code == 202
        assert (await door.post(path, content=body, headers=headers)).json() == answered.json()
    assert (await world.validated(1))[0].rows == 1


async def test_too_far_behind_is_503_until_it_is_not(world: Any) -> None:
    """Bodies that wait to be staged, or records to be heard: not now, and when to ask again; later it is taken."""
    await world.release()
    path, headers = "/v1/datasets/flight/records", {"content-type": "application/x-ndjson"}
    async with KafkaDoor(world.kafka, world.prefix) as bus:
        async with await own_door(world, bus, Patience(bytes=100)) as door:
            await world.execute(
                """INSERT INTO arrival (dataset, number, id, source, arrived, format, rows, bytes)
                   VALUES ('elsewhere', 1, gen_random_uuid(), '/t', now(), 'ndjson', 1, 101)"""
            )
            await world.execute("INSERT INTO arrival_body SELECT max(seq), repeat('a', 101)::bytea FROM arrival")
            answer = await door.post(path, content=b"{}", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (503, "CT5031")
            assert int(answer.headers["retry-after"]) > 0 and "101 bytes" in answer.json()["detail"]
            set_aside = "INSERT INTO batch (dataset, number, problem, ended) VALUES ('elsewhere', 1, 'no', now())"
            await world.execute(set_aside)  # what was set aside waits for nothing
            async with asyncio.timeout(20):
                while (await door.post(path, content=b'{"flight": "F1"}', headers=headers)).status_code == 503:
                    await asyncio.sleep(0.05)
        async with await own_door(world, bus, Patience(records=50)) as door:
            bus.ends[0] = 10_000_000
            answer = await door.post(path, content=b"{}", headers=headers)
            assert (answer.status_code, "to be heard" in answer.json()["detail"]) == (503, True)


async def test_a_body_that_never_comes_is_408(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Announced and not sent: its room is free again."""
    await world.release()
    monkeypatch.setattr(door_body, "READ_SECONDS", 0.1)

    async def never() -> AsyncIterator[bytes]:
        yield b'{"flight": '
        await asyncio.sleep(60)

    for _ in range(8):  # more than there is room for at one time
        request = world.door.build_request("POST", "/v1/datasets/flight/records", content=never())
        request.headers.update({"content-type": "application/x-ndjson", "content-length": str(door_body.BODY_LIMIT)})
        status, code = await _raw(world, request)
        assert (status, code) == (408, "CT4080")


async def _raw(world: Any, request: httpx.Request) -> tuple[int, str]:
    """Asked as a server asks: httpx itself would wait for the body."""
    sent: list[dict[str, Any]] = []
    pieces = request.stream.__aiter__()  # type: ignore[union-attr]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await anext(pieces), "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": request.url.path, "raw_path": request.url.raw_path,
        "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "", "server": ("h", 1),
        "client": ("c", 1), "headers": [(name.lower(), value) for name, value in request.headers.raw],
    }  # fmt: skip
    await world.ingestion.app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])["code"]


async def test_more_at_once_than_there_is_room_for_is_429(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted as large as it becomes: a small compressed body needs the room of what it stands for."""
    await world.release()
    async with KafkaDoor(world.kafka, world.prefix) as bus:
        monkeypatch.setattr(door_body.Admission.__init__, "__defaults__", (1 << 20,))
        async with await own_door(world, bus) as door:
            bomb = stream(pa.table({"flight": ["a" * (2 << 20)]}), "zstd")
            answer = await door.post("/v1/datasets/flight/records", content=bomb, headers={"content-type": ARROW})
            assert (answer.status_code, answer.json()["code"]) == (429, "CT4290")
            assert answer.headers["retry-after"] == "1" and len(bomb) < 2000
