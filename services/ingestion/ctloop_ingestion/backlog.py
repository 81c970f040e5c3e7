"""How far ingestion is behind, asked at most twice a second: the door says not now before it takes what would wait."""

from collections.abc import Mapping
from dataclasses import dataclass

from ctloop.platform.delivery import Edge
from ctloop.platform.http import ProblemResponse
from ctloop_ingestion.store import IngestionStore

FRESH_SECONDS = 0.5
RETRY_SECONDS = 5


@dataclass(frozen=True)
class Patience:
    """What may wait."""

    bytes: int = 1 << 30
    """Of bodies in PostgreSQL, until they are staged."""
    records: int = 20_000
    """Of the topic of arrivals, in one partition, until they are heard."""


class Backlog:
    """What waits here."""

    def __init__(self, store: IngestionStore, edge: Edge, ends: Mapping[int, int], patience: Patience) -> None:
        self._store, self._edge, self._ends, self._patience = store, edge, ends, patience
        self._waiting, self._next = 0, dict[int, int]()
        self._asked = float("-inf")

    async def check(self) -> None:
        """Let a request in, or not.

        Raises:
            ProblemResponse: 503, ingestion is too far behind.
        """
        now = self._edge.clock.monotonic()
        if now - self._asked > FRESH_SECONDS:
            async with self._edge.reading() as connection:
                self._waiting, self._next = await self._store.backlog(connection)
            self._asked = now
        unheard = max((end - self._next.get(part, 0) for part, end in self._ends.items()), default=0)
        if self._waiting > self._patience.bytes or unheard > self._patience.records:
            detail = f"{self._waiting} bytes wait to be staged, {unheard} records to be heard"
            raise ProblemResponse(503, "CT5031", "ingestion is too far behind", detail, retry_after=RETRY_SECONDS)
