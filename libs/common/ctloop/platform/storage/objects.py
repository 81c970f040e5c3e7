"""The object store for services: the blocking store behind a bounded pool of threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from ctloop.events.errors import TransientError
from ctloop.events.values import ObjectRef
from ctloop.platform.settings import S3Settings
from ctloop.platform.storage.object_store import ObjectStore
from ctloop.platform.storage.s3_access import S3Access

T = TypeVar("T")

THREADS = 4
DEADLINE_SECONDS = 60.0
"""For one call, retries included; a thread that hangs longer ends by the connection's own timeouts."""


class Objects:
    """Immutable objects of one bucket. Built closed; an async context manager opens it."""

    def __init__(self, s3: S3Settings | S3Access, threads: int = THREADS) -> None:
        self._s3 = s3
        self._size = threads
        self._store: ObjectStore | None = None
        self._threads: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        access = self._s3 if isinstance(self._s3, S3Access) else S3Access.of(self._s3)
        self._store = ObjectStore(access, connections=self._size)
        self._threads = ThreadPoolExecutor(self._size, thread_name_prefix="objects")
        await self._prepare()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self._store is not None:
            self._store.close()
        self._store = self._threads = None

    @property
    def store(self) -> ObjectStore:
        """The blocking store, for code that runs in a thread already."""
        if self._store is None:
            raise RuntimeError("Objects is closed: open it with `async with`")
        return self._store

    async def put(self, key: str, body: bytes, *, format: str) -> ObjectRef:
        """Write an object under a key that names it for good."""
        return await self._run(lambda: self.store.put(key, body, format=format))

    async def put_content(self, prefix: str, body: bytes, *, format: str) -> ObjectRef:
        """Write an object named by its content; idempotent."""
        return await self._run(lambda: self.store.put_content(prefix, body, format=format))

    async def get(self, ref: ObjectRef) -> bytes:
        """The object's bytes, size and sha256 verified.

        Raises:
            ObjectMissing, ObjectMismatch, TransientError
        """
        return await self._run(lambda: self.store.get(ref))

    async def _prepare(self) -> None:
        """Wait for the store: a service that starts before its store is not ready, it does not fail."""
        delay = 0.2
        while True:
            try:
                return await self._run(self.store.prepare)
            except TransientError:
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except TimeoutError as error:
            raise TransientError(f"the object store did not answer in {DEADLINE_SECONDS:g} s") from error
