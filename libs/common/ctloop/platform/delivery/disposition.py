"""The fate of what cannot be processed: quarantined, parked or dead. Every record ends in exactly one."""

import json
import traceback
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from prometheus_client import Counter

from ctloop.events.errors import NotYetKnown, RejectedEvent, TransientError, UndecodableEvent
from ctloop.platform.delivery.attempts import ProcessKiller
from ctloop.platform.delivery.clock import Clock
from ctloop.platform.delivery.records import KEY_LIMIT, Raw

DELAYS = (timedelta(seconds=5), timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=10))
NOT_YET_KNOWN_DELAY = timedelta(milliseconds=500)
NOT_YET_KNOWN_LIMIT = timedelta(seconds=30)
ATTEMPTS = 5
COPY_LIMIT = (1 << 20) - 4096
"""Of a dead letter's copy, in bytes, all told; Kafka takes 1 MiB."""
TRANSIENT = (
    TransientError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.TransactionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,  # we were frozen in the middle of a transaction
)
DATABASE_GONE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)
UNSTORABLE = (asyncpg.DataError, asyncpg.ProgramLimitExceededError)
"""A value PostgreSQL has no form for, said by it or by its client: a NUL, a number or a time beyond its types."""
REFUSED = (UndecodableEvent, RejectedEvent, *UNSTORABLE)
"""Trying again can never help."""
REJECTED = Counter("ctloop_events_rejected", "Records quarantined, by reason.", ["service", "reason"])
DEAD = Counter("ctloop_events_dead", "Records that became dead letters, by reason.", ["service", "reason"])


def refused(error: BaseException) -> bool:
    """Whether trying again can never help."""
    return isinstance(error, REFUSED)


def reason_of(error: BaseException) -> str:
    """The public reason of a failure."""
    if isinstance(error, UNSTORABLE):
        return "rejected"
    return str(getattr(error, "reason", "exhausted" if isinstance(error, TRANSIENT) else "unexpected"))


def message_of(error: BaseException) -> str:
    """What to keep of a failure: the sentence of a named one, a bounded traceback of a bug; never a NUL."""
    named = refused(error) or isinstance(error, TransientError)
    text = str(error) if named else "".join(traceback.format_exception(error))[-4000:]
    return text.replace("\0", "").encode("utf-8", "replace").decode() or type(error).__name__


async def quarantine(connection: Any, service: str, raw: Raw, error: BaseException) -> None:
    """Keep a record that can never succeed, with its bytes and the reason."""
    REJECTED.labels(service, reason_of(error)).inc()
    await connection.execute(
        """INSERT INTO quarantine (topic, part, "offset", key, source, id, headers, payload, reason, message)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)""",
        *_columns(raw), reason_of(error), message_of(error),
    )  # fmt: skip


async def park(connection: Any, raw: Raw, reason: str, message: str, delay: timedelta, attempts: int = 1) -> None:
    """Keep a record for later; later ones of its key wait behind it."""
    await connection.execute(
        """INSERT INTO parked (topic, part, "offset", key, source, id, headers, payload, reason, message, attempts,
                               not_before)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, clock_timestamp() + $12)""",
        *_columns(raw), reason, message, attempts, delay,
    )  # fmt: skip


async def bury(connection: Any, service: str, raw: Raw, error: BaseException, attempts: int, first: datetime) -> None:
    """Make a dead letter of it: the row; the topic gets its copy through the outbox."""
    DEAD.labels(service, reason_of(error)).inc()
    await connection.execute(
        """INSERT INTO dead_event (topic, part, "offset", key, source, id, headers, payload, reason, message, attempts,
                                   first_failed)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)""",
        *_columns(raw), reason_of(error), message_of(error), attempts, first,
    )  # fmt: skip


async def publish_dead(
    connection: Any, topic: str, raw: Raw, error: BaseException, attempts: int, first: datetime
) -> None:
    """The copy on the dead-letter topic: original bytes, key and headers, and where, why, how often.

    A record that is too large to carry that too is published without its bytes: its row in ``dead_event`` has them.
    """
    extra = {
        "x-dlq-original-topic": raw.topic,
        "x-dlq-original-partition": str(raw.part),
        "x-dlq-original-offset": str(raw.offset),
        "x-dlq-reason-code": reason_of(error),
        "x-dlq-error-type": type(error).__name__,
        "x-dlq-attempts": str(attempts),
        "x-dlq-first-failed-at": first.isoformat(),
    }
    key, headers, payload = raw.key, json.dumps([*raw.headers, *extra.items()]), raw.payload
    if len(key) + len(headers) + len(payload) > COPY_LIMIT:
        key, payload = key[:KEY_LIMIT], b""
        headers = json.dumps([*extra.items(), ("x-dlq-bytes", str(len(raw.payload)))])
    await connection.execute(
        """INSERT INTO outbox (topic, key, source, id, headers, payload) VALUES ($1, $2, $3, $4, $5, $6)
           ON CONFLICT DO NOTHING""",
        topic, key, raw.source, raw.id, headers, payload,
    )  # fmt: skip


def delay_after(attempts: int, error: BaseException, clock: Clock) -> timedelta:
    """How long to wait before the next attempt, with full jitter."""
    if isinstance(error, NotYetKnown):
        return NOT_YET_KNOWN_DELAY
    most = DELAYS[min(attempts, len(DELAYS)) - 1]
    return most * clock.random.uniform(0.5, 1.0)


def exhausted(error: BaseException, attempts: int, waited: timedelta) -> bool:
    """Whether the attempts are used up: by count, by deaths, or for something not yet known by time."""
    if isinstance(error, NotYetKnown):
        return waited >= NOT_YET_KNOWN_LIMIT
    return attempts >= ATTEMPTS or isinstance(error, ProcessKiller)


def _columns(raw: Raw) -> tuple[Any, ...]:
    return (
        raw.topic, raw.part, raw.offset, raw.key, raw.source, raw.id,
        json.dumps(raw.headers), raw.payload,
    )  # fmt: skip
