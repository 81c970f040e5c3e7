"""The unit of work a handler is given: one transaction with its cause, its time and its ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID, uuid5

import orjson

from ctloop.events.envelope import Envelope, Event, derived_id
from ctloop.platform.delivery.hears import Said
from ctloop.platform.jobs.queue import JOB_TYPE, JobQueue
from ctloop.platform.spans import current_traceparent, loop_traceparent

COMMAND_TYPE = "io.ctloop.command."
INLINE_CONTROL_LIMIT = 256 * 1024
"""Largest payload of a control fact, in bytes; more must travel as a reference to an object."""
INLINE_COLUMNS_LIMIT = 900 * 1024
"""Of a fact that carries columns. A row of the outbox that Kafka refuses would stop the relay for ever."""


class UnitOfWork(Protocol):
    """What a handler may use: PostgreSQL inside the transaction, jobs, and time and ids that are given."""

    @property
    def connection(self) -> Any: ...
    @property
    def cause(self) -> Envelope: ...
    @property
    def now(self) -> datetime: ...
    @property
    def jobs(self) -> JobQueue: ...
    @property
    def traceparent(self) -> str | None: ...
    def id(self, discriminator: str) -> UUID: ...


@dataclass(frozen=True)
class Work:
    """The real one."""

    connection: Any
    cause: Envelope
    now: datetime
    jobs: JobQueue

    @property
    def traceparent(self) -> str | None:
        """Where a trace goes on from here: the span at hand, else the cause's."""
        return current_traceparent() or self.cause.traceparent

    def id(self, discriminator: str) -> UUID:
        """An id that is the same when the cause is handled again."""
        return uuid5(self.cause.id, discriminator)


def said(service: str, work: UnitOfWork, event: Event) -> Said:
    """A returned event with its envelope: same cause, same id, whenever it is said."""
    cause = work.cause
    kind = type(event).type()
    identity = derived_id(cause.id, kind, event.discriminator)
    inside = cause.type.startswith((JOB_TYPE, COMMAND_TYPE))
    envelope = Envelope(
        id=identity,
        source=f"/ctloop/{service}",
        type=kind,
        subject=event.subject,
        time=work.now,
        content_type=getattr(event, "content_type", "application/json"),
        dataschema=f"/contracts/events/{event.topic}.schema.json",
        loop_id=identity if event.starts_loop else cause.loop_id if event.continues_loop else None,
        causation_id=cause.causation_id if inside else cause.id,
        tenant=cause.tenant,
        traceparent=loop_traceparent(identity) if event.starts_loop else work.traceparent,
    )
    return Said(event, envelope)


def payload_of(event: Event) -> bytes:
    """The Kafka value: the columns themselves, or canonical JSON.

    Raises:
        ValueError: too large for the bus.
    """
    body = getattr(event, "body", None)
    columns = isinstance(body, bytes)
    payload = body if columns else event.model_dump_json().encode()
    if len(payload) > (INLINE_COLUMNS_LIMIT if columns else INLINE_CONTROL_LIMIT):
        raise ValueError(f"{type(event).__name__} has {len(payload)} bytes: put the large part into an object")
    return payload


async def save_outbox(connection: Any, events: Sequence[Said], prefix: str, channel: str) -> None:
    """Write what was said into the outbox, in order, and wake the relay at commit."""
    if not events:
        return
    headers = [
        orjson.dumps([(name, value.decode("latin-1")) for name, value in one.envelope.headers()]).decode()
        for one in events
    ]
    await connection.execute(
        """WITH fresh AS (
             INSERT INTO outbox (topic, key, source, id, headers, payload)
             SELECT t, k, s, i, h, p FROM unnest($1::text[], $2::bytea[], $3::text[], $4::uuid[], $5::text[], $6::bytea[])
               WITH ORDINALITY AS u(t, k, s, i, h, p, n) ORDER BY n
             ON CONFLICT (source, id, topic) DO NOTHING)
           SELECT pg_notify($7, '')""",
        [prefix + one.event.topic for one in events],
        [one.envelope.key for one in events],
        [one.envelope.source for one in events],
        [one.envelope.id for one in events],
        headers,
        [payload_of(one.event) for one in events],
        channel,
    )
