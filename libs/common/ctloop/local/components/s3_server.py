"""The S3 server behind a door: only requests that name this installation's access key, which nobody can guess, get in.

The server itself lets its well-known key ``test`` do everything, and checks no signature of its first key.
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def names_key(scope: Message, access_key: str) -> bool:
    """Whether the request's signature, in a header or in the query, is by this key."""
    marks = (f"Credential={access_key}/".encode(), f"X-Amz-Credential={quote(access_key + '/', safe='')}".encode())
    headers = dict(scope["headers"])
    return marks[0] in headers.get(b"authorization", b"") or marks[1] in scope.get("query_string", b"")


def behind_door(app: App, access_key: str) -> App:
    """The app, for those who know the key."""

    async def door(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and names_key(scope, access_key)):
            await app(scope, receive, send)
        elif scope["type"] == "http":
            await send(
                {"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"application/xml")]}
            )
            await send({"type": "http.response.body", "body": DENIED})

    return door


def create_app() -> App:
    """For ``uvicorn --factory``: settings come from the environment, as the server's own do."""
    from ministack.app import app

    return behind_door(app, os.environ["AWS_ACCESS_KEY_ID"])
