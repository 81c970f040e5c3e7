"""Prediction ids: UUIDs of one process, cheap to make and unique for good."""

import itertools
import os


class PredictionIds:
    """74 random bits per process (version 4 form) and a counter of 48 bits."""

    def __init__(self) -> None:
        random = os.urandom(10).hex()
        self._prefix = f"{random[:8]}-{random[8:12]}-4{random[12:15]}-{'89ab'[int(random[15], 16) % 4]}{random[16:19]}-"
        self._count = itertools.count()

    def take(self, rows: int) -> list[str]:
        """Ids for the rows of one request."""
        prefix = self._prefix
        return [f"{prefix}{next(self._count):012x}" for _ in range(rows)]
