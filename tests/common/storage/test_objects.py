"""Objects are verified, named by content, and refused from a store that cannot keep them."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ctloop.events.errors import ObjectMismatch, ObjectMissing, TransientError
from ctloop.platform.storage import Objects, ObjectStore, S3Access, StoreRefused


async def test_content_names_the_object(objects: Objects) -> None:
    """The same bytes are the same object, read back whole."""
    first = await objects.put_content("t", b"abc", format="text")
    again = await objects.put_content("t", b"abc", format="text")
    other = await objects.put_content("t", b"abd", format="text")
    assert first == again
    assert first.uri != other.uri
    assert first.uri.endswith(first.sha256)
    assert await objects.get(first) == b"abc"


async def test_other_bytes_than_named_are_never_given_out(objects: Objects) -> None:
    """Size and sha256 are compared on every read."""
    ref = await objects.put("t/named", b"abcdef", format="text")
    await objects.put("t/named", b"abcdeX", format="text")
    with pytest.raises(ObjectMismatch):
        await objects.get(ref)
    for wrong in ({"bytes": 3}, {"bytes": 9}, {"sha256": "0" * 64}):
        with pytest.raises(ObjectMismatch):
            await objects.get(ref.model_copy(update=wrong))


@pytest.mark.parametrize("uri", ["s3://other/t/x", "file:///etc/passwd", "http://127.0.0.1/x", "s3://{bucket}/none"])
async def test_what_is_not_ours_or_not_there_is_missing(objects: Objects, access: S3Access, uri: str) -> None:
    """A reference from outside reads nothing but objects of the bucket."""
    ref = await objects.put_content("t", b"abc", format="text")
    with pytest.raises(ObjectMissing):
        await objects.get(ref.model_copy(update={"uri": uri.format(bucket=access.bucket)}))


async def test_a_store_that_is_away_is_a_moment(objects: Objects, access: S3Access) -> None:
    """A refused connection is transient, and is told so within seconds."""
    ref = await objects.put_content("t", b"abc", format="text")
    away = ObjectStore(S3Access("http://127.0.0.1:9", "k", "s" * 8, access.bucket))
    with pytest.raises(TransientError):
        away.get(ref)


class Forgetful(BaseHTTPRequestHandler):
    """An S3 server that ignores If-None-Match."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def forgetful() -> Iterator[str]:
    """The address of such a server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Forgetful)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_a_store_without_conditional_put_is_refused(forgetful: str) -> None:
    """On it two writers of the lake would lose rows in silence: the message says what to use."""
    with pytest.raises(StoreRefused, match="If-None-Match"):
        ObjectStore(S3Access(forgetful, "k", "s" * 8, "bucket")).prepare()
