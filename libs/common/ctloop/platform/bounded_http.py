"""uvicorn's HTTP/1.1 with a bound on a request's head, and problems for what is not HTTP: its parser keeps a header that
never ends for ever, and waits for ever for a head that never comes."""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ctloop.platform.http import PROBLEM_JSON, problem

HEAD_LIMIT = 64 << 10
"""Of request line and headers, in bytes; trailers count too."""
HEAD_SECONDS = 20.0
"""For a head to come in whole."""


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._in_head, self._head = True, 0
        self._refusal = (400, "CT4003", "this is not HTTP")
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head += len(data)
        if self._head > HEAD_LIMIT:
            self._refuse(431, "CT4310", "the request's head is too large")
        elif self._timer is None:
            self._expect_head()

    def on_message_begin(self) -> None:
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        if self._head > HEAD_LIMIT:
            self._refusal = (431, "CT4310", "the request's head is too large")
            raise ValueError(self._refusal[2])  # ends the parser, and with it the connection: send_400_response
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_is_there()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(*self._refusal)

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._refuse, 408, "CT4080", "the request did not come in")

    def _head_is_there(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, code: str, title: str) -> None:
        body = bytes(problem(status, code, title).body)
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {PROBLEM_JSON}\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()
