"""A request's body at the door: admitted before it is read, read with limits, split into events."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

import orjson
from fastapi import Request
from starlette.requests import ClientDisconnect

from ctloop.events.data import INLINE_LIMIT
from ctloop.events.errors import RejectedEvent, TooLarge, UndecodableEvent, UnsupportedFormat
from ctloop.platform.http import ProblemResponse
from ctloop_ingestion.domain.bodies import format_of, read_arrow, reference, size_read, split_arrow, split_ndjson

BODY_LIMIT = 64 << 20
"""Largest body of one request, in bytes; larger data goes into an object and its reference through the door."""
IN_FLIGHT_LIMIT = 384 << 20
"""Bytes of all requests being read at one time, as large as they become when they are read."""
READ_SECONDS = 60.0
"""For a body to come in whole: one that is announced and never sent holds its room no longer."""
READABLE = "send NDJSON (one object per line), an Arrow stream, or the JSON of a reference {uri, sha256, bytes, format}"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Admission:
    """How many bytes may be in the door at once."""

    def __init__(self, limit: int = IN_FLIGHT_LIMIT) -> None:
        self._free = limit

    @contextmanager
    def admitted(self, size: int) -> Generator[None]:
        """Room for a body while it is handled; 429 when there is none."""
        if size > self._free:
            raise ProblemResponse(
                429, "CT4290", "too much is coming in at once", hint="send it again in a second", retry_after=1
            )
        self._free -= size
        try:
            yield
        finally:
            self._free += size


def admit(request: Request) -> tuple[str, int]:
    """Format and announced size, decided on the headers alone.

    Raises:
        ProblemResponse: 413, 415
    """
    try:
        format = format_of(request.headers.get("content-type", ""))
    except UnsupportedFormat as error:
        raise ProblemResponse(415, "CT4150", "this content type is not read", str(error), READABLE) from error
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ProblemResponse(415, "CT4151", "compressed bodies are not read", hint="send it without Content-Encoding")
    announced = request.headers.get("content-length", "")
    size = int(announced) if announced.isdigit() else BODY_LIMIT
    if size > BODY_LIMIT:
        raise _too_large(f"{size} bytes; at most {BODY_LIMIT}")
    return format, size


async def read_body(request: Request) -> bytes:
    """The body, cut off where it passes the limit whatever was announced.

    Raises:
        ProblemResponse: 400, 408, 413
    """
    parts: list[bytes] = []
    held = 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for part in request.stream():
                held += len(part)
                if held > BODY_LIMIT:
                    raise _too_large(f"more than {BODY_LIMIT} bytes")
                parts.append(part)
    except TimeoutError as error:
        detail = f"{held} bytes in {READ_SECONDS:g} s"
        hint = "send it again in smaller parts"
        raise ProblemResponse(408, "CT4080", "the body did not come in", detail, hint) from error
    except ClientDisconnect as error:
        raise ProblemResponse(400, "CT4001", "the body cannot be read", "it ended early", READABLE) from error
    if held == 0:
        raise ProblemResponse(400, "CT4000", "the body is empty", hint=READABLE)
    return b"".join(parts)


def grows_to(format: str, body: bytes) -> int:
    """Bytes a body takes once it is read.

    Raises:
        ProblemResponse: 400, 413
    """
    with _refused():
        return size_read(format, body)


def split(format: str, body: bytes) -> tuple[bytes, ...]:
    """The bodies of the events a request becomes.

    Raises:
        ProblemResponse: 400 when it is not what it says it is, 413 when it or a row of it is too large.
    """
    with _refused():
        return _split(format, body)


@contextmanager
def _refused() -> Generator[None]:
    """A body's own refusal as the answer to its sender."""
    try:
        yield
    except TooLarge as error:
        raise _too_large(str(error)) from error
    except UnsupportedFormat as error:
        raise ProblemResponse(415, "CT4150", "this format is not read", str(error), READABLE) from error
    except (RejectedEvent, UndecodableEvent) as error:
        raise ProblemResponse(400, "CT4001", "the body cannot be read", str(error), READABLE) from error


def _split(format: str, body: bytes) -> tuple[bytes, ...]:
    if format == "reference":
        reference(body)
        return (body,)
    if format == "arrow":
        return tuple(split_arrow(read_arrow(body), INLINE_LIMIT))
    if body.startswith(BYTE_ORDER_MARK):
        raise UndecodableEvent("it begins with a byte order mark: send UTF-8 without")
    first = body.lstrip().partition(b"\n")[0]
    try:
        row = orjson.loads(first)
    except orjson.JSONDecodeError as error:
        raise UndecodableEvent(f"the first line is not JSON: {error.msg}") from error
    if not isinstance(row, dict):
        raise UndecodableEvent("the first line is not a JSON object: one object per line, no array around them")
    return tuple(split_ndjson(body, INLINE_LIMIT))


def _too_large(detail: str) -> ProblemResponse:
    hint = "send less at once, or write an object and send its reference"
    return ProblemResponse(413, "CT4130", "the body is too large", detail=detail, hint=hint)
