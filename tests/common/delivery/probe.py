"""A small service for the delivery tests: one fact heard, one effect, one fact said, a second hop, a job."""

import asyncio
import os
import signal
from typing import ClassVar

from ctloop.events.envelope import Event
from ctloop.events.errors import ModelNotYetKnown, RejectedEvent, TransientError
from ctloop.events.model import DeploymentFailed, ModelDeployed
from ctloop.platform.delivery import UnitOfWork, on
from ctloop.platform.jobs import Job, JobEnd, JobFailed, Lease, Timer, runs
from ctloop.platform.service import Service, build_service, serve
from ctloop.platform.settings import Settings

SCHEMA = """
CREATE TABLE IF NOT EXISTS effect (n bigint GENERATED ALWAYS AS IDENTITY, hop int, model text, epoch int, id uuid);
CREATE TABLE IF NOT EXISTS mended (model text);
CREATE TABLE IF NOT EXISTS done (n bigint GENERATED ALWAYS AS IDENTITY, model text, epoch int, fence int);
"""


class Note(Job):
    kind: ClassVar[str] = "note"
    lane: ClassVar[str] = "note"
    max_attempts: ClassVar[int] = 4
    max_deaths: ClassVar[int] = 3
    model: str
    epoch: int

    @property
    def lane_key(self) -> str:
        return self.model


class Noted(JobEnd):
    model: str
    epoch: int
    fence: int


class Tick(Timer):
    kind: ClassVar[str] = "tick"
    model: str


class Handlers:
    async def on_deployed(self, event: ModelDeployed, work: UnitOfWork) -> tuple[Event, ...]:
        """One effect, one fact; what the replica is called says how it goes wrong."""
        await self.go_wrong(event, work)
        await self.effect(work, 1, event.model, event.epoch)
        if event.replica == "job":
            await work.jobs.add(Note(model=event.model, epoch=event.epoch))
            return ()
        said = DeploymentFailed(
            model=event.model, replica=event.replica, version=event.version, epoch=event.epoch, reason="second hop"
        )
        if event.replica == "says too much":
            return (said.model_copy(update={"reason": "x" * 300_000}),)
        return (said,)

    async def go_wrong(self, event: ModelDeployed, work: UnitOfWork) -> None:  # noqa: C901 a list
        if event.replica == "bug":
            raise ZeroDivisionError("a bug")
        if event.replica == "mendable" and not await work.connection.fetchval("SELECT 1 FROM mended"):
            raise ZeroDivisionError("a bug that will be mended")
        if event.replica == "killer":
            os.kill(os.getpid(), signal.SIGKILL)
        if event.replica == "leaks":
            raise asyncio.CancelledError
        if event.replica == "hangs":
            await asyncio.Event().wait()
        if event.replica == "like a lost database":
            raise TimeoutError("but the database is there")
        if event.replica == "stranger":
            raise ModelNotYetKnown(f"{event.model} is not known")
        if event.replica == "impossible":
            raise RejectedEvent("this can never succeed")
        if event.replica == "unlucky":
            raise TransientError("not now")

    async def on_failed(self, event: DeploymentFailed, work: UnitOfWork) -> tuple[Event, ...]:
        await self.effect(work, 2, event.model, event.epoch)
        return ()

    async def on_noted(self, done: Noted, work: UnitOfWork) -> tuple[Event, ...]:
        await work.connection.execute(
            "INSERT INTO done (model, epoch, fence) VALUES ($1, $2, $3)", done.model, done.epoch, done.fence
        )
        return ()

    async def on_note_failed(self, failed: JobFailed[Note], work: UnitOfWork) -> tuple[Event, ...]:
        await work.connection.execute(
            "INSERT INTO done (model, epoch, fence) VALUES ($1, $2, -1)", failed.job.model, failed.job.epoch
        )
        return ()

    async def effect(self, work: UnitOfWork, hop: int, model: str, epoch: int) -> None:
        await work.connection.execute(
            "INSERT INTO effect (hop, model, epoch, id) VALUES ($1, $2, $3, $4)", hop, model, epoch, work.cause.id
        )


class Jobs:
    async def note(self, job: Note, lease: Lease) -> Noted:
        if job.model == "failing":
            raise TransientError("never today")
        if job.model == "leaking":
            raise asyncio.CancelledError
        if job.model == "killer":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.model == "impossible":
            raise RejectedEvent("this job can never succeed")
        await asyncio.sleep(0.001)
        return Noted(model=job.model, epoch=job.epoch, fence=lease.fence)


HEARS = (
    on(ModelDeployed, Handlers.on_deployed, says=(DeploymentFailed,)),
    on(DeploymentFailed, Handlers.on_failed),
    on(Noted, Handlers.on_noted),
)
RUNS = (runs(Note, Jobs.note, failed=Handlers.on_note_failed),)


def create_app(settings: Settings) -> Service:
    return build_service("probe", settings, handlers=Handlers(), hears=HEARS, jobs=Jobs(), runs=RUNS)


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.WARNING)
    serve(create_app(Settings()))
