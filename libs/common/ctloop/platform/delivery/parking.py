"""Parked events come back: when their time has come, in order of their key, until they succeed or are dead."""

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ctloop.events.errors import NotYetKnown
from ctloop.events.topics import dead_letters
from ctloop.platform.delivery import attempts, disposition
from ctloop.platform.delivery.chunks import Chunks
from ctloop.platform.delivery.edge import being_cancelled
from ctloop.platform.delivery.hears import Hears, Said
from ctloop.platform.delivery.liveness import Liveness
from ctloop.platform.delivery.records import Raw, arrival_of

log = logging.getLogger("ctloop.parking")
POLL_SECONDS = 0.25


class Parking:
    """Tries the first parked event of each topic and key; the ones behind it wait."""

    def __init__(self, chunks: Chunks, topics: Mapping[str, Hears], liveness: Liveness) -> None:
        self._chunks, self._edge, self._topics, self._liveness = chunks, chunks.edge, topics, liveness
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End after the event at hand."""
        self._stopping.set()

    async def run(self) -> None:
        """Until stopped."""
        while not self._stopping.is_set():
            self._liveness.stamp("parking")
            try:
                busy = await self.try_one()
            except disposition.DATABASE_GONE:
                busy = False
            if not busy:
                try:
                    await asyncio.wait_for(self._stopping.wait(), POLL_SECONDS)
                except TimeoutError:
                    continue
        self._liveness.forget("parking")

    async def try_one(self) -> bool:
        """Try the next due event; False when none is due."""
        next_one = await self._next()
        if next_one is None:
            return False
        seq, deaths = next_one
        async with self._edge.transaction() as connection:
            row = await connection.fetchrow("SELECT * FROM parked WHERE seq = $1 FOR UPDATE SKIP LOCKED", seq)
            if row is None:  # another process of this service has it
                return True
            events, failure = await self._attempt(connection, row, deaths)
            await attempts.end(connection, row["topic"], row["part"], row["offset"])
            if failure is None:
                await connection.execute("DELETE FROM parked WHERE seq = $1", row["seq"])
            else:
                await self._fail(connection, row, failure)
        self._edge.tell(events)
        return True

    async def _next(self) -> tuple[int, int] | None:
        """The next due event and how often the process has died with it; the try is in the ledger before it begins."""
        async with self._edge.transaction() as connection:
            row = await connection.fetchrow(
                """SELECT seq, topic, part, "offset" FROM parked p WHERE not_before <= clock_timestamp()
                      AND (key = '' OR NOT EXISTS (
                            SELECT 1 FROM parked o WHERE o.topic = p.topic AND o.key = p.key AND o.seq < p.seq))
                    ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED"""
            )
            if row is None:
                return None
            life = self._edge.life
            return row["seq"], await attempts.begin(connection, row["topic"], row["part"], row["offset"], life)

    async def _attempt(self, connection: Any, row: Any, deaths: int) -> tuple[tuple[Said, ...], Exception | None]:
        """What was said, or why nothing was."""
        if deaths >= attempts.DEATHS:
            return (), attempts.ProcessKiller(deaths)
        try:
            async with connection.transaction():  # a savepoint, so that the failure can be written down
                events = await self._handle(connection, row)
                await self._edge.save(connection, events)
                return events, None
        except disposition.DATABASE_GONE as error:
            if being_cancelled() or connection.is_closed() or not await self._edge.database_answers():
                raise
            return (), error
        except Exception as error:
            return (), error

    async def _handle(self, connection: Any, row: Any) -> tuple[Said, ...]:
        arrival = arrival_of(raw_of_row(row), self._topics[row["topic"]], row["first_failed"].isoformat())
        if arrival.refusal is not None:
            raise arrival.refusal
        return await self._chunks.effects_of(connection, [replace(arrival, tries=row["attempts"] + 1)])

    async def _fail(self, connection: Any, row: Any, error: Exception) -> None:
        raw, tried = raw_of_row(row), row["attempts"] + 1
        waited = self._edge.clock.now() - row["first_failed"]
        if disposition.refused(error) or (
            isinstance(error, NotYetKnown) and disposition.exhausted(error, tried, waited)
        ):
            await disposition.quarantine(connection, self._edge.service, raw, error)
        elif disposition.exhausted(error, tried, waited):
            first = row["first_failed"]
            await disposition.bury(connection, self._edge.service, raw, error, tried, first)
            topic = self._edge.prefix + dead_letters(self._edge.service)
            await disposition.publish_dead(connection, topic, raw, error, tried, first)
        else:
            await connection.execute(
                """UPDATE parked SET attempts = $2, reason = $3, message = $4, not_before = clock_timestamp() + $5
                    WHERE seq = $1""",
                row["seq"], tried, disposition.reason_of(error), disposition.message_of(error),
                disposition.delay_after(tried, error, self._edge.clock),
            )  # fmt: skip
            return
        await connection.execute("DELETE FROM parked WHERE seq = $1", row["seq"])


def raw_of_row(row: Any) -> Raw:
    """A kept record."""
    headers = [(name, value) for name, value in json.loads(row["headers"])]
    return Raw(
        row["topic"], row["part"], row["offset"], bytes(row["key"]), row["source"], row["id"], headers,
        bytes(row["payload"]),
    )  # fmt: skip
