"""The object store as serving reads it: opened when first needed, so that serving starts without it."""

import asyncio

from ctloop.events.errors import TransientError
from ctloop.events.values import ObjectRef
from ctloop.platform.settings import S3Settings
from ctloop.platform.storage import ObjectStore, S3Access


class ModelObjects:
    """Reads models; the store being down at the start is no reason to wait."""

    def __init__(self, s3: S3Settings) -> None:
        self._s3 = s3
        self._store: ObjectStore | None = None

    async def get(self, ref: ObjectRef) -> bytes:
        """The object's bytes, size and sha256 verified.

        Raises:
            ObjectMissing, ObjectMismatch, TransientError
        """
        return await asyncio.to_thread(self._opened().get, ref)

    def _opened(self) -> ObjectStore:
        if self._store is None:
            try:
                self._store = ObjectStore(S3Access.of(self._s3), connections=4)
            except (OSError, ValueError) as error:
                raise TransientError(f"the object store's keys cannot be read: {error}") from error
        return self._store
