"""How long the books are kept: longer than anything that could still ask, and no longer."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ctloop.events.topics import FACTS
from ctloop.platform.delivery import disposition
from ctloop.platform.delivery.edge import Edge

TOPIC = timedelta(days=max(fact.retention_days for fact in FACTS))
DEAD_LETTERS = timedelta(days=14)
MARGIN = timedelta(days=7)
KEEP = max(TOPIC, DEAD_LETTERS) + MARGIN
"""Of inbox rows: one that goes while its record can still come again would turn a replay into a second effect."""
BATCH = 5_000
FIRST_SECONDS, AGAIN_SECONDS, SWEEP_SECONDS = 60.0, 0.5, 3600.0


@dataclass(frozen=True)
class Kept:
    """A table and for how long its rows are kept; ``old`` is SQL: the row ``t`` is older than the interval ``$1``."""

    table: str
    old: str
    keep: timedelta = KEEP


def since(column: str) -> str:
    """Rows are as old as their column says."""
    return f"t.{column} < clock_timestamp() - $1::interval"


DELIVERY = (
    Kept("inbox", since("at")),
    Kept("command_log", since("at")),
    Kept("job", since("ended")),
    Kept("incident", since("at")),
    Kept("quarantine", since("at"), DEAD_LETTERS),
    Kept("dead_event", since("at"), DEAD_LETTERS),
)
"""Every service's. The outbox empties itself; what is parked ends as processed, quarantined or dead."""


async def sweep(connection: Any, kept: Sequence[Kept]) -> bool:
    """Delete at most one batch per table of what nobody can ask for any more; whether a table may have more of it."""
    more = False
    for one in kept:
        done = await connection.execute(
            f"""DELETE FROM {one.table} WHERE ctid = ANY(
                  ARRAY(SELECT t.ctid FROM {one.table} t WHERE {one.old} LIMIT $2))""",  # noqa: S608 ours
            one.keep,
            BATCH,
        )
        more = more or int(done.rpartition(" ")[2]) >= BATCH
    return more


async def keep_sweeping(edge: Edge, kept: Sequence[Kept]) -> None:
    """Until cancelled: soon after the start, for a service may never run for an hour, then every hour."""
    wait = FIRST_SECONDS
    while True:
        await asyncio.sleep(wait)
        wait = SWEEP_SECONDS
        with contextlib.suppress(*disposition.DATABASE_GONE, *disposition.TRANSIENT):
            async with edge.reading() as connection:
                wait = AGAIN_SECONDS if await sweep(connection, kept) else SWEEP_SECONDS
