"""What is no HTTP, or never ends, against a real server: an answer, a closed connection, bounded memory."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request

from ctloop.platform import bounded_http
from ctloop.platform.bounded_http import HEAD_LIMIT, BoundedHttp
from ctloop.platform.http import install_problems

app = FastAPI()
install_problems(app)


@app.post("/echo/{name}")
async def echo(name: str, request: Request) -> dict[str, Any]:
    """How much came."""
    return {"name": name, "bytes": len(await request.body())}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Of a server."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=BoundedHttp, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def said(port: int, *pieces: bytes) -> tuple[int, dict[str, Any]]:
    """Status and body of the answer to some bytes, up to the end of the connection or of the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        body = await reader.readexactly(length)
    writer.close()
    return int(head.split()[1]), json.loads(body)


def request(head: bytes, body: bytes = b"") -> bytes:
    """A request with these headers."""
    return b"POST /echo/a HTTP/1.1\r\nhost: h\r\n" + head + b"\r\n" + body


async def test_an_honest_request_is_answered(port: int) -> None:
    """Also one that comes byte by byte, with a head just within the limit, and a second one on the same connection."""
    whole = request(b"x: " + b"a" * (HEAD_LIMIT - 200) + b"\r\ncontent-length: 3\r\n", b"abc")
    assert await said(port, whole) == (200, {"name": "a", "bytes": 3})
    small = request(b"content-length: 3\r\n", b"abc")
    assert await said(port, *(small[one : one + 1] for one in range(len(small)))) == (200, {"name": "a", "bytes": 3})


@pytest.mark.parametrize(
    ("pieces", "status", "code"),
    [
        ([request(b"x: " + b"a" * HEAD_LIMIT + b"\r\n")], 431, "CT4310"),
        ([b"POST /echo/a HTTP/1.1\r\nx: ", *[b"a" * 4096] * 64], 431, "CT4310"),
        ([request(b"".join(b"x%d: a\r\n" % one for one in range(20_000)))], 431, "CT4310"),
        ([b"POST /echo/" + b"a" * (1 << 20) + b" HTTP/1.1\r\n\r\n"], 431, "CT4310"),
        ([request(b"transfer-encoding: chunked\r\n", b"1\r\na\r\n0\r\n"), *[b"x: " + b"a" * 9000 + b"\r\n"] * 9], 431, "CT4310"),
        ([b"\x16\x03\x01\x02\x00 this is TLS\r\n\r\n"], 400, "CT4003"),
        ([b"GET / HTTP/9.9\r\n\r\n"], 400, "CT4003"),
        ([request(b"content-length: -1\r\n")], 400, "CT4003"),
        ([request(b"content-length: many\r\n")], 400, "CT4003"),
        ([request(b"content-length: 3\r\ncontent-length: 4\r\n", b"abcd")], 400, "CT4003"),
        ([request(b"content-length: 3\r\ntransfer-encoding: chunked\r\n", b"abc")], 400, "CT4003"),
        ([request(b"x: a\0b\r\n")], 400, "CT4003"),
        ([b"POST /echo/\xff\xfe HTTP/1.1\r\nhost: h\r\n\r\n"], 400, "CT4003"),
    ],
    ids=["one header", "a header that never ends", "many headers", "path", "trailers", "tls", "version", "negative",
         "words", "two lengths", "smuggled", "nul", "not ascii"],
)  # fmt: skip
async def test_what_is_no_request_is_a_problem(port: int, pieces: list[bytes], status: int, code: str) -> None:
    """With its code and what to do, and the connection ends."""
    found, problem = await said(port, *pieces)
    assert (found, problem["code"]) == (status, code)
    assert problem["hint"]


async def test_a_head_that_never_comes_ends(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle connection, and one that stops in its head, are not kept for ever."""
    monkeypatch.setattr(bounded_http, "HEAD_SECONDS", 0.2)
    for pieces in ([], [b"POST /echo/a HTTP/1.1\r\nx: "]):
        assert (await said(port, *pieces))[1]["code"] == "CT4080"


async def test_paths_have_hints(port: int) -> None:
    """An unknown path, another method."""
    for start, status in ((b"GET /nothing", 404), (b"GET /echo/a", 405), (b"POST /echo/..%2f..%2fetc", 404)):
        found, problem = await said(port, start + b" HTTP/1.1\r\nhost: h\r\n\r\n")
        assert (found, problem["code"], bool(problem["hint"])) == (status, f"CT{status}0", True)
