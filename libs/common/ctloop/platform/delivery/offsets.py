"""The fence: which record is next, who may take it, and whether it was taken before. Truth is in PostgreSQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID

from ctloop.platform.delivery.records import Raw


@dataclass(frozen=True)
class Fenced:
    """What the fence said of a chunk."""

    passed: bool
    fresh: frozenset[tuple[str, UUID]] = frozenset()
    """(source, id) of records not seen before."""
    parked_keys: frozenset[bytes] = frozenset()
    """Keys of this topic that have a parked event."""


class Look(Enum):
    """Why a chunk did not pass the fence."""

    TAKEN_OVER = "another owner has the partition"
    DISPOSED = "all of it was processed before"
    PARTLY_DISPOSED = "the first records of it were processed before"
    GAP = "records before it are missing"
    FOREIGN = "offsets we have processed hold other records: the topic was re-created or truncated"


async def pass_fence(connection: Any, topic: str, part: int, raws: Sequence[Raw], epoch: int) -> Fenced:
    """Fence, gap detector and inbox in one round trip: only the newest owner, only the next offset."""
    row = await connection.fetchrow(
        """WITH f AS (UPDATE consumer_offset SET next_offset = $4, updated = clock_timestamp()
                       WHERE topic = $1 AND part = $2 AND next_offset = $3 AND owner_epoch = $5 RETURNING 1),
              i AS (INSERT INTO inbox (source, id)
                    SELECT u.source, u.id FROM f, unnest($6::text[], $7::uuid[]) AS u(source, id)
                    ON CONFLICT DO NOTHING RETURNING source, id)
           SELECT (SELECT count(*) FROM f) AS passed,
                  ARRAY(SELECT source FROM i) AS sources, ARRAY(SELECT id FROM i) AS ids,
                  ARRAY(SELECT DISTINCT key FROM parked WHERE topic = $1) AS parked""",
        topic, part, raws[0].offset, raws[-1].offset + 1, epoch, [raw.source for raw in raws], [raw.id for raw in raws],
    )  # fmt: skip
    fresh = frozenset(zip(row["sources"], row["ids"], strict=True))
    return Fenced(bool(row["passed"]), fresh, frozenset(bytes(key) for key in row["parked"]))


async def look(connection: Any, topic: str, part: int, raws: Sequence[Raw], epoch: int) -> tuple[Look, int]:
    """Why the fence refused, and the offset that is next by our books. Never 'duplicate' blindly."""
    row = await connection.fetchrow(
        "SELECT next_offset, owner_epoch FROM consumer_offset WHERE topic = $1 AND part = $2", topic, part
    )
    if row is None or row["owner_epoch"] != epoch:
        return Look.TAKEN_OVER, -1
    following = int(row["next_offset"])
    if following < raws[0].offset:
        return Look.GAP, following
    old = [raw for raw in raws if raw.offset < following]
    known = await connection.fetchval(
        "SELECT count(*) FROM unnest($1::text[], $2::uuid[]) AS u(source, id) JOIN inbox USING (source, id)",
        [raw.source for raw in old],
        [raw.id for raw in old],
    )
    if known != len(old):
        return Look.FOREIGN, following
    return (Look.DISPOSED if len(old) == len(raws) else Look.PARTLY_DISPOSED), following


async def acquire(connection: Any, topic: str, part: int, beginning: int) -> tuple[int, int]:
    """Become the newest owner: (epoch, next offset). A partition seen for the first time starts at the log's start."""
    row = await connection.fetchrow(
        """INSERT INTO consumer_offset (topic, part, next_offset, owner_epoch)
           VALUES ($1, $2, $3, nextval('owner_epoch'))
           ON CONFLICT (topic, part) DO UPDATE SET owner_epoch = nextval('owner_epoch')
           RETURNING owner_epoch, next_offset""",
        topic, part, beginning,
    )  # fmt: skip
    return int(row["owner_epoch"]), int(row["next_offset"])


async def report_incident(connection: Any, topic: str, part: int, kind: str, message: str) -> None:
    """Write down what an operator must know about a partition."""
    await connection.execute(
        "INSERT INTO incident (topic, part, kind, message) VALUES ($1, $2, $3, $4)", topic, part, kind, message
    )


async def skip_lost(connection: Any, topic: str, part: int, epoch: int, to: int) -> None:
    """Go on after a range that retention has removed."""
    await connection.execute(
        "UPDATE consumer_offset SET next_offset = $4 WHERE topic = $1 AND part = $2 AND owner_epoch = $3",
        topic, part, epoch, to,
    )  # fmt: skip
