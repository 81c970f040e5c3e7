"""How long the books are kept: longer than anything that could still ask."""

from datetime import timedelta
from typing import Any

from ctloop.events.topics import FACTS

TOPIC = timedelta(days=max(fact.retention_days for fact in FACTS))
DEAD_LETTERS = timedelta(days=7)
MARGIN = timedelta(days=7)
KEEP = TOPIC + DEAD_LETTERS + MARGIN
"""Of inbox rows: one that goes while its record can still come again would turn a replay into a second effect."""
BATCH = 5_000
SWEEP_SECONDS = 3600.0

_OLD = (
    ("inbox", "at < clock_timestamp() - $1::interval"),
    ("command_log", "at < clock_timestamp() - $1::interval"),
    ("job", "ended < clock_timestamp() - $1::interval"),
)


async def sweep(connection: Any) -> int:
    """Delete one batch per table of what nobody can ask for any more; how many rows went."""
    gone = 0
    for table, old in _OLD:
        done = await connection.execute(
            f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {old} LIMIT $2))",  # noqa: S608 ours
            KEEP,
            BATCH,
        )
        gone += int(done.rpartition(" ")[2])
    return gone
