"""Parked events come back: when their time has come, in order of their key, until they succeed or are dead."""

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ctloop.events.errors import NotYetKnown
from ctloop.events.topics import dead_letters
from ctloop.platform.delivery import disposition, retention
from ctloop.platform.delivery.chunks import Chunks
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
        self._next_sweep = self._edge.clock.monotonic() + retention.SWEEP_SECONDS

    def stop(self) -> None:
        """End after the event at hand."""
        self._stopping.set()

    async def run(self) -> None:
        """Until stopped."""
        while not self._stopping.is_set():
            self._liveness.stamp("parking")
            try:
                busy = await self.try_one()
                await self._sweep()
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
        row, failure = None, None
        async with self._edge.transaction() as connection:
            row = await connection.fetchrow(
                """SELECT * FROM parked p WHERE not_before <= clock_timestamp()
                      AND (key = '' OR NOT EXISTS (
                            SELECT 1 FROM parked o WHERE o.topic = p.topic AND o.key = p.key AND o.seq < p.seq))
                    ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED"""
            )
            if row is None:
                return False
            try:
                async with connection.transaction():  # a savepoint, so that the failure can be written down
                    events = await self._handle(connection, row)
            except disposition.DATABASE_GONE as error:
                if connection.is_closed() or not await self._edge.database_answers():
                    raise
                events, failure = (), error
            except Exception as error:
                events, failure = (), error
            if failure is None:
                await connection.execute("DELETE FROM parked WHERE seq = $1", row["seq"])
                await self._edge.save(connection, events)
            else:
                await self._fail(connection, row, failure)
        self._edge.tell(events)
        return True

    async def _sweep(self) -> None:
        """Now and then, delete what is too old to be asked for."""
        now = self._edge.clock.monotonic()
        if now < self._next_sweep:
            return
        async with self._edge.reading() as connection:
            gone = await retention.sweep(connection)
        self._next_sweep = now if gone >= retention.BATCH else now + retention.SWEEP_SECONDS

    async def _handle(self, connection: Any, row: Any) -> tuple[Said, ...]:
        arrival = arrival_of(raw_of_row(row), self._topics[row["topic"]], row["first_failed"].isoformat())
        if arrival.refusal is not None:
            raise arrival.refusal
        if arrival.hears.bulk:
            return await self._chunks._bulk(connection, [arrival])  # pyright: ignore[reportPrivateUsage]
        return await self._edge.apply(connection, [replace(arrival, tries=row["attempts"] + 1)])

    async def _fail(self, connection: Any, row: Any, error: Exception) -> None:
        raw, attempts = raw_of_row(row), row["attempts"] + 1
        waited = self._edge.clock.now() - row["first_failed"]
        if disposition.refused(error) or (
            isinstance(error, NotYetKnown) and disposition.exhausted(error, attempts, waited)
        ):
            await disposition.quarantine(connection, self._edge.service, raw, error)
        elif disposition.exhausted(error, attempts, waited):
            first = row["first_failed"]
            await disposition.bury(connection, self._edge.service, raw, error, attempts, first)
            topic = self._edge.prefix + dead_letters(self._edge.service)
            await disposition.publish_dead(connection, topic, raw, error, attempts, first)
        else:
            await connection.execute(
                """UPDATE parked SET attempts = $2, reason = $3, message = $4, not_before = clock_timestamp() + $5
                    WHERE seq = $1""",
                row["seq"], attempts, disposition.reason_of(error), disposition.message_of(error),
                disposition.delay_after(attempts, error, self._edge.clock),
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
