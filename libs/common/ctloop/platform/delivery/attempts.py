"""The attempt ledger: which record a process has died with, so that one that kills is known after a few deaths."""

from typing import Any
from uuid import UUID

DEATHS = 3


class ProcessKiller(RuntimeError):
    """A record that the process ended with again and again: dead without another try."""

    def __init__(self, deaths: int) -> None:
        super().__init__(f"the process died {deaths} times while it handled this record")


async def begin(connection: Any, topic: str, part: int, offset: int, life: UUID) -> int:
    """Write down that this life tries the record; how many lives have ended with it. Must be committed before the try."""
    return await connection.fetchval(
        """INSERT INTO attempt (topic, part, "offset", deaths, life) VALUES ($1, $2, $3, 0, $4)
           ON CONFLICT (topic, part, "offset") DO UPDATE
             SET deaths = attempt.deaths + (attempt.life <> excluded.life)::integer, life = excluded.life
           RETURNING deaths""",
        topic, part, offset, life,
    )  # fmt: skip


async def end(connection: Any, topic: str, part: int, offset: int) -> None:
    """Whatever came of it, the process lives."""
    await connection.execute(
        'DELETE FROM attempt WHERE topic = $1 AND part = $2 AND "offset" = $3', topic, part, offset
    )
