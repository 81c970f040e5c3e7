"""A request's body at the door: admitted before it is read, read with a limit, split into events."""

from collections.abc import Generator
from contextlib import contextmanager

import orjson
from fastapi import Request

from ctloop.events.data import INLINE_LIMIT
from ctloop.events.errors import RejectedEvent, TooLarge, UndecodableEvent, UnsupportedFormat
from ctloop.platform.http import ProblemResponse
from ctloop_ingestion.domain.bodies import format_of, read_arrow, reference, split_arrow, split_ndjson

BODY_LIMIT = 64 << 20
"""Largest body of one request, in bytes; larger data goes into an object and its reference through the door."""
IN_FLIGHT_LIMIT = 256 << 20
"""Bytes of all requests being read at one time."""


class Admission:
    """How many bytes may be in the door at once."""

    def __init__(self, limit: int = IN_FLIGHT_LIMIT) -> None:
        self._free = limit

    @contextmanager
    def admitted(self, size: int) -> Generator[None]:
        """Room for a body while it is handled; 429 when there is none."""
        if size > self._free:
            raise ProblemResponse(
                429, "CT4290", "too much is coming in at once", hint="send it again in a second (Retry-After: 1)"
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
        raise ProblemResponse(415, "CT4150", "this content type is not read", detail=str(error)) from error
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
        ProblemResponse: 400, 413
    """
    parts: list[bytes] = []
    held = 0
    async for part in request.stream():
        held += len(part)
        if held > BODY_LIMIT:
            raise _too_large(f"more than {BODY_LIMIT} bytes")
        parts.append(part)
    if held == 0:
        raise ProblemResponse(400, "CT4000", "the body is empty", hint="send NDJSON or an Arrow stream")
    return b"".join(parts)


def split(format: str, body: bytes) -> tuple[bytes, ...]:
    """The bodies of the events a request becomes.

    Raises:
        ProblemResponse: 400 when it is not what it says it is, 413 when a row is larger than an event.
    """
    try:
        return _split(format, body)
    except TooLarge as error:
        raise _too_large(str(error)) from error
    except UnsupportedFormat as error:
        raise ProblemResponse(415, "CT4150", "this format is not read", detail=str(error)) from error
    except (RejectedEvent, UndecodableEvent) as error:
        raise ProblemResponse(400, "CT4001", "the body cannot be read", detail=str(error)) from error


def _split(format: str, body: bytes) -> tuple[bytes, ...]:
    if format == "reference":
        reference(body)
        return (body,)
    if format == "arrow":
        return tuple(split_arrow(read_arrow(body), INLINE_LIMIT))
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
