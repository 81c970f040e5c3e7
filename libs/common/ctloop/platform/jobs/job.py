"""Jobs as values: what is to be done outside a transaction, how it ends, and the lease it is done under."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, Generic, Literal, TypeVar
from uuid import UUID

from ctloop.events.envelope import Envelope, Event, Value
from ctloop.events.errors import CtloopError


class Job(Value):
    """Work outside PostgreSQL; its fields are its arguments. The kind names it in the table."""

    kind: ClassVar[str]
    lane: ClassVar[str] = ""
    """Jobs of one lane run one at a time, in order, per lane_key."""
    priority: ClassVar[int] = 0
    deadline: ClassVar[timedelta] = timedelta(minutes=5)
    """Of one attempt."""
    max_attempts: ClassVar[int] = 5
    max_deaths: ClassVar[int] = 10
    """Attempts that ended with the process: a job that kills it is not tried for ever, however patient it is."""

    @property
    def lane_key(self) -> str:
        """What the lane is one at a time for, e.g. the dataset."""
        return ""

    @property
    def spec_hash(self) -> str:
        """sha256 of kind and canonical arguments: one open job per spec."""
        body = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{self.kind}|{body}".encode()).hexdigest()


class Timer(Job):
    """A job without outside work: its line in HEARS runs when its time has come."""

    max_attempts: ClassVar[int] = 1_000_000


class JobEnd(Value):
    """What a job ends in; a line in HEARS says what follows."""


J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class JobFailed(Generic[J]):
    """A job that will not be tried again."""

    job: J
    reason: Literal["rejected", "exhausted"]
    message: str
    attempts: int


class LeaseLost(CtloopError):
    """Another owner has taken the job: stop now; what was written lies under this fence's prefix and is garbage."""


@dataclass
class Lease:
    """The right to work on a job, for as long as the fence in its row is this one."""

    job_id: UUID
    fence: int
    attempt: int
    cause: Envelope
    notes: Mapping[str, Any]
    """What earlier attempts noted."""
    keep: Callable[[Mapping[str, Any]], Awaitable[None]]
    speak: Callable[[Sequence[Event]], Awaitable[None]]
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    deaths: int = 0
    """Attempts that ended with the process."""

    @property
    def prefix(self) -> str:
        """Where in the store this attempt writes."""
        return f"attempts/{self.job_id}/{self.fence}"

    def check(self) -> None:
        """Raises LeaseLost when another owner has the job."""
        if self.lost.is_set():
            raise LeaseLost(f"job {self.job_id} is no longer ours (fence {self.fence})")

    async def note(self, value: Mapping[str, Any]) -> None:
        """Keep progress in the row, for people and for the next attempt. Raises LeaseLost."""
        await self.keep(value)
        self.notes = {**self.notes, **value}

    async def say(self, *events: Event) -> None:
        """Say facts in the middle of the job, under the fence; said again by a later attempt they have the same id."""
        await self.speak(events)


@dataclass(frozen=True)
class Runs:
    """A line of RUNS: the method that does a job, and the handler of its failure."""

    job: type[Job]
    method: Callable[..., Awaitable[JobEnd]]
    failed: Callable[..., Awaitable[Any]] | None = None
    says: tuple[type[Event], ...] = ()


def runs(
    job: type[Job],
    method: Callable[..., Awaitable[Any]],
    failed: Callable[..., Awaitable[Any]] | None = None,
    says: tuple[type[Event], ...] = (),
) -> Runs:
    """A line of RUNS. ``failed`` is a handler: (self, JobFailed, work) -> events, in one transaction with the end."""
    return Runs(job, method, failed, says)
