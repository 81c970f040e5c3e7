"""Blocking access to the object store: every read verified, every write checked, every wait bounded."""

import hashlib
import io
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError

from ctloop.events.errors import CtloopError, ObjectMismatch, ObjectMissing, TransientError
from ctloop.events.values import ObjectRef
from ctloop.platform.storage.s3_access import S3Access

PROBE_KEY = "probes/conditional-put"
GONE = ("NoSuchKey", "NoSuchObject", "ResourceNotFound", "KeyTooLongError", "InvalidURI", "XMinioInvalidObjectName")
KEY_BYTES = 1024
"""Longest key S3 has."""
SHA256 = "sha256"
CHUNK = 1 << 20


class StoreRefused(CtloopError):
    """An object store that does not honour conditional PUT: Delta commits would overwrite one another in silence."""


def connection_pool(size: int) -> urllib3.PoolManager:
    """At most ``size`` connections; 2 s to connect, 10 s per read, two more tries (the client's own defaults are 300 s)."""
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=2, read=10),
        retries=urllib3.Retry(total=2, backoff_factor=0.1, status_forcelist=(500, 502, 503, 504)),
        maxsize=size,
        block=True,
    )


class ObjectStore:
    """Objects of one bucket, blocking: for worker processes and threads. Thread-safe."""

    def __init__(self, access: S3Access, connections: int = 8) -> None:
        self.access = access
        self._pool = connection_pool(connections)
        self._client = Minio(
            access.host,
            access_key=access.access_key,
            secret_key=access.secret_key,
            secure=access.secure,
            region=access.region,
            http_client=self._pool,
        )

    def close(self) -> None:
        self._pool.clear()

    def prepare(self) -> None:
        """Make the bucket where it is missing and probe the store.

        Raises:
            StoreRefused: the store ignores ``If-None-Match``.
        """
        with translated(self.access.uri("")):
            if not self._client.bucket_exists(self.access.bucket):
                self._make_bucket()
            self._probe()

    def put(self, key: str, body: bytes, *, format: str) -> ObjectRef:
        """Write an object and see that it is there; the same key and body again is harmless."""
        digest = hashlib.sha256(body).hexdigest()
        ref = ObjectRef(uri=self.access.uri(key), sha256=digest, bytes=len(body), format=format)
        with translated(ref.uri):
            self._client.put_object(self.access.bucket, key, io.BytesIO(body), len(body), metadata={SHA256: digest})
            seen = self._client.stat_object(self.access.bucket, key)
        if seen.size != len(body):
            raise TransientError(f"{ref.uri}: {len(body)} bytes were written, the store has {seen.size}")
        return ref

    def put_content(self, prefix: str, body: bytes, *, format: str) -> ObjectRef:
        """Write an object named by its content: ``<prefix>/sha256/<hex>``. Idempotent, never overwrites other bytes."""
        return self.put(f"{prefix}/{SHA256}/{hashlib.sha256(body).hexdigest()}", body, format=format)

    def get(self, ref: ObjectRef) -> bytes:
        """The object's bytes, size and sha256 verified.

        Raises:
            ObjectMissing: it is not there, or is not of this store's bucket.
            ObjectMismatch: other bytes than the reference names.
            TransientError: the store does not answer.
        """
        body = self._read(self.key_of(ref.uri), ref.uri, limit=ref.bytes)
        if len(body) != ref.bytes:
            raise ObjectMismatch(f"{ref.uri}: the reference says {ref.bytes} bytes, the object has other")
        if hashlib.sha256(body).hexdigest() != ref.sha256:
            raise ObjectMismatch(f"{ref.uri}: the sha256 of the bytes is not the reference's")
        return body

    def key_of(self, uri: str) -> str:
        """The key of an object of this bucket.

        Raises:
            ObjectMissing: the uri names another bucket or scheme, or a key no object of ours has.
        """
        start = self.access.uri("")
        if not uri.startswith(start) or len(uri) == len(start):
            raise ObjectMissing(f"{uri}: objects are read from {start}... only")
        key = uri.removeprefix(start)
        if not key.isprintable() or len(key.encode()) > KEY_BYTES or {"", ".", ".."} & set(key.split("/")):
            raise ObjectMissing(f"{uri[:200]!a}: no object has such a key")
        return key

    def _read(self, key: str, uri: str, limit: int) -> bytes:
        with translated(uri):
            response: Any = self._client.get_object(self.access.bucket, key)
            try:
                parts: list[bytes] = []
                held = 0
                while held <= limit and (part := response.read(CHUNK)):
                    parts.append(part)
                    held += len(part)
                return b"".join(parts)
            finally:
                response.close()
                response.release_conn()

    def _make_bucket(self) -> None:
        try:
            self._client.make_bucket(self.access.bucket)
        except S3Error as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def _probe(self) -> None:
        url = self._client.presigned_put_object(self.access.bucket, PROBE_KEY, expires=timedelta(minutes=5))
        answers = [self._pool.request("PUT", url, body=b"ctloop", headers={"If-None-Match": "*"}) for _ in range(2)]
        if answers[0].status not in (200, 204, 409, 412) or answers[1].status not in (200, 204, 409, 412):
            raise TransientError(f"{self.access.endpoint}: the probe was answered {answers[1].status}")
        if answers[1].status not in (409, 412):
            raise StoreRefused(
                f"{self.access.endpoint} ignores If-None-Match: two writers of the lake would lose rows in silence. "
                "Use a store with conditional PUT (AWS S3, MinIO, Ceph, the embedded one)."
            )


@contextmanager
def translated(uri: str) -> Generator[None]:
    """Say the client's errors in our four names."""
    try:
        yield
    except S3Error as error:
        if error.code in GONE:
            raise ObjectMissing(f"{uri}: there is no such object") from error
        raise TransientError(f"{uri}: {error.code}: {error.message}") from error
    except (urllib3.exceptions.HTTPError, ServerError, InvalidResponseError, OSError) as error:
        raise TransientError(f"{uri}: {type(error).__name__}: {error}") from error
