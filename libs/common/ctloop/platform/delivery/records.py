"""From a raw Kafka record to a typed fact, without ever raising anything but a named refusal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from pydantic import ValidationError

from ctloop.events.data import DataArrived, PredictionsServed
from ctloop.events.envelope import JSON, Envelope, Event, decode_headers, first_problem, stranger_id
from ctloop.events.errors import CtloopError, RejectedEvent, TooLarge, UndecodableEvent
from ctloop.platform.delivery.hears import Hears

RECORD_LIMIT = 1 << 20
"""Largest record we read, in bytes; the broker's own limit is the same."""
KEY_LIMIT = 1000
"""Of a record's key, in bytes: it is indexed where a record is parked."""
HEADERS_LIMIT = 64 << 10
"""Of all headers together, in bytes: they are kept with every record that waits."""


class Record(Protocol):
    """What we use of aiokafka's ConsumerRecord."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Any


@dataclass(frozen=True)
class Raw:
    """A record as it is kept in parked, quarantine and dead letters."""

    topic: str
    part: int
    offset: int
    key: bytes
    source: str
    id: UUID
    headers: list[tuple[str, str]]
    """Values as latin-1 text, so that every byte survives."""
    payload: bytes


@dataclass(frozen=True)
class Arrival:
    """A record with what became of decoding it: a fact for a line of HEARS, or the refusal."""

    raw: Raw
    hears: Hears
    envelope: Envelope | None = None
    event: Event | None = None
    refusal: CtloopError | None = None
    tries: int = 1


def raw_of(record: Record, topic: str) -> Raw:
    """The record as we keep it; its id is its own where it brings one."""
    headers = [(str(name), (value or b"").decode("latin-1")) for name, value in record.headers or ()]
    named = decode_headers((name, value.encode("latin-1")) for name, value in headers)
    source = named.get("ce_source") or f"kafka:{topic}"
    identity = stranger_id(
        source, named.get("ce_id"), topic=topic, partition=record.partition, offset=record.offset,
        timestamp_ms=record.timestamp,
    )  # fmt: skip
    return Raw(
        topic, record.partition, record.offset, record.key or b"", source[:300].replace("\0", ""), identity, headers,
        record.value or b"",
    )  # fmt: skip


def arrival_of(raw: Raw, hears: Hears, timestamp_iso: str) -> Arrival:
    """Decode; what cannot be decoded carries its refusal."""
    try:
        if len(raw.payload) > RECORD_LIMIT:
            raise TooLarge(f"{len(raw.payload)} bytes; at most {RECORD_LIMIT}: send a reference to an object instead")
        if len(raw.key) > KEY_LIMIT:
            raise TooLarge(f"a key of {len(raw.key)} bytes; at most {KEY_LIMIT}: 'default|<name>'")
        if (held := sum(len(name) + len(value) for name, value in raw.headers)) > HEADERS_LIMIT:
            raise TooLarge(f"headers of {held} bytes; at most {HEADERS_LIMIT}")
        headers = decode_headers((name, value.encode("latin-1")) for name, value in raw.headers)
        envelope = _envelope(raw, hears.event, headers, timestamp_iso)
        return Arrival(raw, hears, envelope, _event(hears.event, envelope, raw))
    except (UndecodableEvent, RejectedEvent) as refusal:
        return Arrival(raw, hears, refusal=refusal)


def unreadable(topic: str, partition: int, offset: int, hears: Hears) -> Arrival:
    """A record the client cannot hand out; its bytes stay on the topic, at this offset."""
    source = f"kafka:{topic}"
    identity = stranger_id(source, None, topic=topic, partition=partition, offset=offset, timestamp_ms=0)
    raw = Raw(topic, partition, offset, b"", source, identity, [], b"")
    why = "the name of a header of this record, or of one in its batch, is not UTF-8; its bytes are on the topic"
    return Arrival(raw, hears, refusal=UndecodableEvent(why))


def _envelope(raw: Raw, event: type[Event], headers: Mapping[str, str], timestamp_iso: str) -> Envelope:
    columns = event in (DataArrived, PredictionsServed)
    subject = headers.get("ce_subject") or raw.key.decode("utf-8", "replace").partition("|")[2]
    if not subject or "\0" in subject:
        raise UndecodableEvent("no dataset or model: set the header ce_subject, or the key to 'default|<name>'")
    if columns:  # strangers may send data with as little as a subject
        headers = {"ce_type": event.type(), "ce_time": timestamp_iso, **headers}
    elif headers.get("ce_type") != event.type():
        raise UndecodableEvent(f"ce_type is {headers.get('ce_type', '')[:100]!r}, this topic carries {event.type()!r}")
    return Envelope.from_headers({**headers, "ce_id": str(raw.id), "ce_source": raw.source, "ce_subject": subject})


def _event(event: type[Event], envelope: Envelope, raw: Raw) -> Event:
    try:
        if event is DataArrived:
            return DataArrived(dataset=envelope.subject, content_type=envelope.content_type, body=raw.payload)
        if event is PredictionsServed:
            return PredictionsServed(model=envelope.subject, content_type=envelope.content_type, body=raw.payload)
        if not envelope.content_type.startswith(JSON):
            raise UndecodableEvent(f"content-type {envelope.content_type!r}: control facts are {JSON}")
        if b"\\u0000" in raw.payload or b"\0" in raw.payload:
            raise UndecodableEvent("a NUL character")
        return event.model_validate_json(raw.payload)
    except ValidationError as error:
        raise UndecodableEvent(first_problem(error)) from error
    except RecursionError as error:
        raise UndecodableEvent("nested too deep") from error
