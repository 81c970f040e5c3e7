"""The job runner of a process: leases due jobs, keeps the leases alive, ends each in one fenced transaction."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal
from uuid import uuid5

import asyncpg
from prometheus_client import Counter

from ctloop.events.envelope import Envelope, Event
from ctloop.platform.delivery import disposition
from ctloop.platform.delivery.edge import Edge, HandlerMisbehaved
from ctloop.platform.delivery.hears import Said
from ctloop.platform.delivery.liveness import Liveness
from ctloop.platform.jobs.job import Job, JobEnd, JobFailed, Lease, LeaseLost, Runs, Timer
from ctloop.platform.jobs.queue import JOB_TYPE
from ctloop.platform.spans import going_on, links_to, mark_failed, span
from ctloop.platform.testing.failpoints import failpoint

log = logging.getLogger("ctloop.jobs")
JOBS = Counter("ctloop_jobs", "Jobs ended, by kind and outcome.", ["service", "kind", "outcome"])
LEASE = timedelta(seconds=30)
HEARTBEAT_SECONDS = 5.0
POLL_SECONDS = 0.5
STOP_SECONDS = 10.0
SPANS = 5
"""Attempts of a job that get a span; those after them would make its trace as long as an outage."""
BUG_ATTEMPTS = 20
"""Of a job that fails by something nobody named, in about a quarter of an hour: its lane waits behind it."""
END_WAITS_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0)


class JobRunner:
    """Runs up to ``slots`` jobs side by side."""

    def __init__(  # noqa: PLR0913 built once, by the composition root
        self,
        edge: Edge,
        kinds: Mapping[str, Runs],
        timers: Mapping[str, type[Timer]],
        owner: object,
        *,
        handlers: object,
        connect: Callable[[], Any],
        liveness: Liveness,
        ordinal: int,
        slots: int = 4,
    ) -> None:
        self._edge, self._kinds, self._timers, self._owner, self._handlers = edge, kinds, timers, owner, handlers
        self._connect, self._liveness = connect, liveness
        self._me = f"{edge.service}-{ordinal}"
        self._slots = asyncio.Semaphore(slots)
        self._wake = asyncio.Event()
        self._stopping = False
        self._running: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Take no more jobs."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Until stopped; jobs at hand get a moment to end, then their lease is given back."""
        listener = asyncio.create_task(self._listen())
        try:
            await self._take_back()
            while not self._stopping:
                self._liveness.stamp("jobs")
                if not await self._turn():
                    await self._idle()
        finally:
            listener.cancel()
            await self._end_running()
            self._liveness.forget("jobs")

    async def _turn(self) -> bool:
        if self._slots.locked():  # long jobs fill all slots: the loop turns on, its silence would mean it is stuck
            return False
        await self._slots.acquire()
        try:
            row = await self._claim()
        except (*disposition.DATABASE_GONE, *disposition.TRANSIENT):
            row = None
        if row is None:
            self._slots.release()
            return False
        task = asyncio.create_task(self._do(row))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: (self._slots.release(), self._wake.set()))
        return True

    async def _idle(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
        self._wake.clear()

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection = await self._connect()
                try:
                    await connection.add_listener(self._edge.jobs_channel, lambda *_: self._wake.set())
                    while not connection.is_closed():  # noqa: ASYNC110
                        await asyncio.sleep(1)  # asyncpg tells nobody when a connection dies
                finally:
                    with contextlib.suppress(Exception):
                        await connection.close(timeout=1)
            await asyncio.sleep(0.5)

    async def _take_back(self) -> None:
        """What this process was doing when it died is free at once, not after the lease."""
        async with self._edge.reading() as connection:
            await connection.execute(
                "UPDATE job SET lease_until = NULL WHERE owner = $1 AND state = 'RUNNING'", self._me
            )

    async def _claim(self) -> Any:
        async with self._edge.transaction() as connection:
            return await connection.fetchrow(
                """UPDATE job SET owner = $1, fence = fence + 1, attempt = attempt + 1,
                                  deaths = deaths + (state = 'RUNNING')::integer, state = 'RUNNING',
                                  lease_until = clock_timestamp() + $2, started = coalesce(started, clock_timestamp())
                    WHERE id = (
                      SELECT j.id FROM job j
                       WHERE j.state IN ('QUEUED', 'RUNNING') AND j.kind = ANY($3::text[])
                         AND (j.lease_until IS NULL OR j.lease_until < clock_timestamp())
                         AND j.not_before <= clock_timestamp()
                         AND (j.lane = '' OR NOT EXISTS (
                               SELECT 1 FROM job o WHERE o.lane = j.lane AND o.lane_key = j.lane_key
                                  AND o.state IN ('QUEUED', 'RUNNING') AND o.seq < j.seq))
                       ORDER BY j.priority DESC, j.seq FOR UPDATE OF j SKIP LOCKED LIMIT 1)
                   RETURNING *""",
                self._me, LEASE, [*self._kinds, *self._timers],
            )  # fmt: skip

    async def _do(self, row: Any) -> None:
        cause = Envelope.model_validate_json(row["cause"])
        job = self._job_of(row)
        lease = self._lease(row, cause)
        heart = asyncio.create_task(self._heartbeat(lease))
        try:
            with _span(job, lease):
                await self._attempt(job, lease)
        except LeaseLost:
            log.warning("lost the lease of %s", job.kind, extra={"action": "lease-lost", "job": lease.job_id})
        except asyncio.CancelledError:
            await asyncio.shield(self._give_back(lease))
            raise
        except disposition.DATABASE_GONE as error:
            log.warning("job %s waits for the database: %r", job.kind, error, extra={"action": "job-database"})
        except Exception:
            log.exception("job %s could not be ended", job.kind, extra={"action": "job-failed", "job": lease.job_id})
        finally:
            heart.cancel()

    def _job_of(self, row: Any) -> Job:
        kind = row["kind"]
        cls = self._timers.get(kind) or self._kinds[kind].job
        return cls.model_validate_json(row["arguments"])

    async def _attempt(self, job: Job, lease: Lease) -> None:
        """One attempt of a job, or a timer's handler, and its end."""
        if isinstance(job, Timer):
            await self._timer(job, lease)
            return
        line = self._kinds[job.kind]
        if lease.attempt > job.max_attempts or lease.deaths >= job.max_deaths:
            died = RuntimeError(f"the process ended {lease.deaths} times while it did this job")
            await self._failed(line, job, lease, "exhausted", died)
            return
        failpoint("job.begin")
        try:
            async with asyncio.timeout(job.deadline.total_seconds()):
                end = await self._with_lease(line, job, lease)
        except disposition.REFUSED as error:
            await self._failed(line, job, lease, "rejected", error)
            return
        except LeaseLost:
            raise
        except Exception as error:
            await self._again(line, job, lease, error)
            return
        failpoint("job.done")
        await self._conclude(line, job, lease, end)

    async def _conclude(self, line: Runs, job: Job, lease: Lease, end: Any) -> None:
        try:
            await self._end_patiently(job, lease, end)
        except (LeaseLost, *disposition.DATABASE_GONE):
            raise
        except disposition.REFUSED as error:
            await self._failed(line, job, lease, "rejected", error)
        except Exception as error:
            await self._again(line, job, lease, error)

    async def _with_lease(self, line: Runs, job: Job, lease: Lease) -> JobEnd:
        """The job's method, stopped at once when the lease is lost."""
        work = asyncio.ensure_future(line.method(self._owner, job, lease))
        lost = asyncio.create_task(lease.lost.wait())
        try:
            await asyncio.wait({work, lost}, return_when=asyncio.FIRST_COMPLETED)
            if work.cancelled():
                raise HandlerMisbehaved("the job leaked a CancelledError")
            if work.done():
                return work.result()
            lease.check()
            raise LeaseLost("the lease was lost")
        finally:
            lost.cancel()
            if not work.done():
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await work

    async def _timer(self, job: Timer, lease: Lease) -> None:
        try:
            await self._end(job, lease, job)
        except (LeaseLost, *disposition.DATABASE_GONE):
            raise
        except Exception as error:
            if not isinstance(error, disposition.TRANSIENT):
                log.exception("timer %s failed, it is tried again", job.kind, extra={"action": "timer-retry"})
            await self._retry_row(lease, error)

    async def _end_patiently(self, job: Job, lease: Lease, end: Any) -> None:
        """The work is done and may have been long: a database that is away for a moment must not undo it."""
        for wait in END_WAITS_SECONDS:
            try:
                await self._end(job, lease, end)
                return
            except (*disposition.DATABASE_GONE, *disposition.TRANSIENT) as error:
                log.warning("the end of %s waits: %r", job.kind, error, extra={"action": "job-end-waits"})
            await asyncio.sleep(wait)
            lease.check()
        await self._end(job, lease, end)

    async def _end(self, job: Job, lease: Lease, end: Any) -> None:
        """The only commit of a job: compare-and-set on its fence, the handler of its end, the outbox."""
        async with self._edge.transaction() as connection:
            await self._close_row(connection, lease, "DONE", "")
            async with self._edge.handling():
                events = await self._edge.handle(connection, end, self._end_envelope(job, lease))
            await self._edge.save(connection, events)
            failpoint("job.commit")
        failpoint("job.committed")
        self._edge.tell(events)
        JOBS.labels(self._edge.service, job.kind, "done").inc()

    async def _failed(
        self, line: Runs, job: Job, lease: Lease, reason: Literal["rejected", "exhausted"], error: BaseException
    ) -> None:
        message = disposition.message_of(error)
        mark_failed(error)
        log.error(
            "job %s %s: %s", job.kind, reason, message.strip().splitlines()[-1],
            extra={"action": "job-failed", "job": lease.job_id, "reason": reason},
        )  # fmt: skip
        async with self._edge.transaction() as connection:
            await self._close_row(connection, lease, "FAILED", message[:4000])
            events: tuple[Said, ...] = ()
            if line.failed is not None:
                work = self._edge.work(connection, self._end_envelope(job, lease))
                failed = JobFailed(job, reason, message, lease.attempt)
                async with self._edge.handling():
                    events = self._edge.dress(await line.failed(self._handlers, failed, work), work)
            await self._edge.save(connection, events)
        self._edge.tell(events)
        JOBS.labels(self._edge.service, job.kind, "failed").inc()

    async def _again(self, line: Runs, job: Job, lease: Lease, error: Exception) -> None:
        named = isinstance(error, (*disposition.TRANSIENT, *disposition.DATABASE_GONE))
        if lease.attempt >= (job.max_attempts if named else min(job.max_attempts, BUG_ATTEMPTS)):
            await self._failed(line, job, lease, "exhausted", error)
            return
        if not named:
            log.exception(
                "job %s failed, it is tried again", job.kind, extra={"action": "job-retry", "job": lease.job_id}
            )
        await self._retry_row(lease, error)

    async def _retry_row(self, lease: Lease, error: BaseException) -> None:
        mark_failed(error)
        delay = timedelta(seconds=min(0.2 * 2 ** min(lease.attempt, 9), 60.0) * self._edge.clock.random.uniform(0.5, 1))
        async with self._edge.reading() as connection:
            await connection.execute(
                """UPDATE job SET state = 'QUEUED', lease_until = NULL, owner = NULL, message = $3,
                                  not_before = clock_timestamp() + $4
                    WHERE id = $1 AND fence = $2 AND state = 'RUNNING'""",
                lease.job_id, lease.fence, disposition.message_of(error)[:4000], delay,
            )  # fmt: skip

    async def _close_row(self, connection: Any, lease: Lease, state: str, message: str) -> None:
        done = await connection.execute(
            """UPDATE job SET state = $3, message = $4, ended = clock_timestamp(), lease_until = NULL
                WHERE id = $1 AND fence = $2 AND state = 'RUNNING'""",
            lease.job_id, lease.fence, state, message,
        )  # fmt: skip
        if done.endswith(" 0"):
            raise LeaseLost(f"job {lease.job_id}: fence {lease.fence} is not the newest")

    async def _give_back(self, lease: Lease) -> None:
        with contextlib.suppress(*disposition.DATABASE_GONE):
            async with self._edge.reading() as connection:
                await connection.execute(
                    """UPDATE job SET state = 'QUEUED', lease_until = NULL, attempt = attempt - 1
                        WHERE id = $1 AND fence = $2 AND state = 'RUNNING'""",
                    lease.job_id, lease.fence,
                )  # fmt: skip

    def _end_envelope(self, job: Job, lease: Lease) -> Envelope:
        """What a job's end is caused by: an id of its own, the loop and the cause it was added under."""
        cause = lease.cause
        caused_inside = cause.type.startswith(JOB_TYPE)
        return Envelope(
            id=uuid5(lease.job_id, "end"),
            source=f"/ctloop/{self._edge.service}",
            type=f"{JOB_TYPE}{job.kind}",
            subject=cause.subject,
            time=self._edge.clock.now(),
            loop_id=cause.loop_id,
            causation_id=cause.causation_id if caused_inside else cause.id,
            tenant=cause.tenant,
            traceparent=cause.traceparent,
        )

    def _lease(self, row: Any, cause: Envelope) -> Lease:
        async def keep(value: Mapping[str, Any]) -> None:
            async with self._edge.reading() as connection:
                done = await connection.execute(
                    """UPDATE job SET notes = (notes::jsonb || $3::jsonb)::text
                        WHERE id = $1 AND fence = $2 AND state = 'RUNNING'""",
                    row["id"], row["fence"], json.dumps(dict(value)),
                )  # fmt: skip
            if done.endswith(" 0"):
                lease.lost.set()
                lease.check()

        async def speak(events: Sequence[Event]) -> None:
            async with self._edge.transaction() as connection:
                mine = await connection.fetchval(
                    "SELECT 1 FROM job WHERE id = $1 AND fence = $2 AND state = 'RUNNING' FOR UPDATE",
                    row["id"], row["fence"],
                )  # fmt: skip
                if mine is None:
                    lease.lost.set()
                    lease.check()
                envelope = self._end_envelope(self._job_of(row), lease)
                said = self._edge.dress(events, self._edge.work(connection, envelope))
                await self._edge.save(connection, said)
            self._edge.tell(said)

        notes = json.loads(row["notes"])
        lease = Lease(row["id"], row["fence"], row["attempt"], cause, notes, keep, speak, deaths=row["deaths"])
        return lease

    async def _heartbeat(self, lease: Lease) -> None:
        while not lease.lost.is_set():
            await asyncio.sleep(HEARTBEAT_SECONDS)
            with contextlib.suppress(*disposition.DATABASE_GONE, *disposition.TRANSIENT):
                async with self._edge.reading() as connection:
                    done = await connection.execute(
                        """UPDATE job SET lease_until = clock_timestamp() + $3
                            WHERE id = $1 AND fence = $2 AND state = 'RUNNING'""",
                        lease.job_id, lease.fence, LEASE,
                    )  # fmt: skip
                if done.endswith(" 0"):
                    lease.lost.set()

    async def _end_running(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=STOP_SECONDS)
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=2)


def _span(job: Job, lease: Lease) -> contextlib.AbstractContextManager[object]:
    """Of one attempt, child of where the job was added; a wake-up by the clock begins a trace of its own."""
    cause, timer = lease.cause, isinstance(job, Timer)
    if lease.attempt > SPANS and not timer:
        return going_on(cause.traceparent, cause.loop_id)
    return span(
        f"job {job.kind}",
        parent=None if timer else cause.traceparent,
        loop_id=cause.loop_id,
        links=links_to([cause.traceparent]) if timer else (),
        attributes={"ctloop.job.id": str(lease.job_id), "ctloop.job.attempt": lease.attempt},
    )
