"""Adding jobs inside a unit of work."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

from ctloop.events.envelope import Envelope
from ctloop.platform.jobs.job import Job, Timer
from ctloop.platform.spans import current_traceparent, loop_traceparent

JOB_TYPE = "io.ctloop.job."
"""CloudEvents type prefix of the envelopes jobs end under."""


class JobQueue:
    """The job table as a unit of work sees it."""

    def __init__(self, connection: Any, cause: Envelope, channel: str) -> None:
        self._connection, self._cause, self._channel = connection, cause, channel

    async def add(
        self,
        job: Job,
        *,
        not_before: timedelta | None = None,
        loop_id: UUID | None = None,
        replace: bool = False,
    ) -> bool:
        """Add a job, once per spec while one is open; False when there is one already.

        A timer that is there keeps its time unless ``replace``. The row is locked, so that a timer whose handler runs
        at this moment is waited for and then set anew: no wake-up is lost.
        """
        cause = self._cause.model_copy(update=self._belonging(job, loop_id))
        change = "not_before = excluded.not_before" if replace else "spec_hash = job.spec_hash"
        identity = uuid5(self._cause.id, f"{job.kind}|{job.spec_hash}|{not_before if isinstance(job, Timer) else ''}")
        added = await self._connection.fetchval(
            f"""WITH added AS (
                  INSERT INTO job (id, kind, arguments, spec_hash, lane, lane_key, priority, cause, not_before)
                  SELECT $1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp() + $9
                   WHERE NOT EXISTS (SELECT 1 FROM job WHERE id = $1)
                  ON CONFLICT (spec_hash) WHERE state IN ('QUEUED', 'RUNNING') DO UPDATE SET {change}
                  RETURNING (xmax = 0) AS fresh)
                SELECT fresh FROM added, LATERAL (SELECT pg_notify($10, '')) AS woken""",  # noqa: S608 two fixed texts
            identity, job.kind, job.model_dump_json(), job.spec_hash, job.lane, job.lane_key, job.priority,
            cause.model_dump_json(), not_before or timedelta(0), self._channel,
        )  # fmt: skip
        return bool(added)

    def _belonging(self, job: Job, loop_id: UUID | None) -> dict[str, Any]:
        """Loop and trace of a job. A clock's wake-ups belong to no loop: they may go on for ever."""
        at_hand = current_traceparent() or self._cause.traceparent
        if isinstance(job, Timer):
            return {"loop_id": None, "traceparent": at_hand}
        if loop_id is not None and loop_id != self._cause.loop_id:  # of another loop, or of the one that begins here
            return {"loop_id": loop_id, "traceparent": loop_traceparent(loop_id)}
        return {"loop_id": self._cause.loop_id, "traceparent": at_hand}

    async def cancel(self, job: Job) -> bool:
        """Cancel an open job of this spec; a running one loses its lease at its next heartbeat."""
        done = await self._connection.execute(
            """UPDATE job SET state = 'CANCELLED', fence = fence + 1, ended = clock_timestamp()
                WHERE spec_hash = $1 AND state IN ('QUEUED', 'RUNNING')""",
            job.spec_hash,
        )
        return not done.endswith(" 0")
