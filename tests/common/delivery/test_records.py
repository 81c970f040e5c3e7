"""Whatever is on a topic, decoding it ends in a fact or a named refusal: for every fact, at every listener, in memory."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ctloop.events.errors import CtloopError, TooLarge, UndecodableEvent
from ctloop.events.topics import BY_TOPIC, FACTS, Fact
from ctloop.platform.delivery.chunks import iso_of
from ctloop.platform.delivery.hears import on
from ctloop.platform.delivery.records import HEADERS_LIMIT, KEY_LIMIT, RECORD_LIMIT, arrival_of, raw_of

EXAMPLES = Path(__file__).resolve().parents[3] / "contracts" / "examples"
CONTROL = [fact for fact in FACTS if not fact.columns]
COLUMNS = [fact for fact in FACTS if fact.columns]
TOPIC = {"ids": lambda fact: fact.event.topic}


@dataclass
class Record:
    """A record as aiokafka hands it out."""

    topic: str
    value: bytes | None
    key: bytes | None = b"default|name"
    headers: list[tuple[str, bytes | None]] = field(default_factory=list[tuple[str, bytes | None]])
    timestamp: int = 0
    partition: int = 0
    offset: int = 7


def golden(fact: Fact) -> bytes:
    """A payload that is right."""
    return sorted((EXAMPLES / fact.event.topic).glob("*.json"))[0].read_bytes()


def headers(fact: Fact, **change: bytes | None) -> list[tuple[str, bytes | None]]:
    """An envelope that is right, but for a change; names have bars instead of minus."""
    right: dict[str, bytes | None] = {
        "ce_id": b"6f1ed002-ab5c-4f0e-9f3b-000000000001", "ce_source": b"/t", "ce_type": fact.event.type().encode(),
        "ce_subject": b"name", "ce_time": b"2026-11-27T00:00:00Z", "content-type": b"application/json",
    }  # fmt: skip
    return list({**right, **{name.replace("__", "-"): value for name, value in change.items()}}.items())


async def nothing(*_: Any) -> tuple[()]:
    """A handler."""
    return ()


def refusal(fact: Fact, record: Record) -> CtloopError | None:
    """What becomes of a record: None, it is a fact."""
    arrival = arrival_of(raw_of(record, fact.event.topic), on(fact.event, nothing), iso_of(record.timestamp))
    assert (arrival.event is None) is (arrival.refusal is not None)
    json.dumps(arrival.raw.headers)
    assert "\0" not in arrival.raw.source
    return arrival.refusal


@pytest.mark.parametrize("fact", CONTROL, **TOPIC)
def test_the_right_one_is_a_fact(fact: Fact) -> None:
    """Else the refusals below would prove nothing."""
    assert refusal(fact, Record(fact.event.topic, golden(fact), headers=headers(fact))) is None


def broken(body: bytes) -> dict[str, bytes | None]:
    """A payload made wrong in each way."""
    whole = json.loads(body)
    first = next(iter(whole))
    return {
        "tombstone": None,
        "empty": b"",
        "no json": b"\xff\xfe\0",
        "cut": body[:-2],
        "byte order mark": b"\xef\xbb\xbf" + body,
        "array": b"[]",
        "null": b"null",
        "deep": b"[" * 100_000,
        "deep inside": json.dumps({**whole, first: 0}).encode().replace(b": 0", b": " + b"[" * 5000 + b"]" * 5000, 1),
        "nothing": b"{}",
        "NUL": json.dumps({**whole, first: "a\0b"}).encode(),
        "NUL raw": body.replace(b'"', b'"\0', 1),
        "lone surrogate": body.replace(b'"', b'"\\ud800', 1),
        "not UTF-8": body.replace(b'"', b'"\xff', 1),
        "wrong types": json.dumps({name: {"a": [1]} for name in whole}).encode(),
        "NaN": b'{"%s": NaN}' % first.encode(),
        "1e400": b'{"%s": 1e400}' % first.encode(),
    }


@pytest.mark.parametrize("fact", CONTROL, **TOPIC)
def test_a_payload_that_is_not_the_contract_is_undecodable(fact: Fact) -> None:
    """Each of these, of each control fact."""
    for name, body in broken(golden(fact)).items():
        found = refusal(fact, Record(fact.event.topic, body, headers=headers(fact)))
        assert isinstance(found, UndecodableEvent), name


@pytest.mark.parametrize("fact", FACTS, **TOPIC)
def test_an_envelope_that_is_none_is_undecodable(fact: Fact) -> None:
    """Times nobody has, ids, types, subjects; for columns too."""
    body = b"x" if fact.columns else golden(fact)
    wrong: list[dict[str, bytes | None]] = [
        {"ce_time": b"yesterday"},
        {"ce_time": b"2026-11-27T00:00:00"},
        {"ce_time": b"0001-01-01T00:00:00+14:00"},
        {"ce_time": b"9999-12-31T23:59:59-14:00"},
        {"ce_time": b"99999-01-01T00:00:00Z"},
        {"ce_subject": b"a\0b"},
        {"ce_subject": b"n" * 10_000},
        {"ce_type": b"io.ctloop.something.v9"} if not fact.columns else {"ce_type": b"t" * 10_000},
        {"ce_loopid": b"not a uuid"},
        {"ce_causationid": b"\xff"},
        {"ce_tenant": b"t" * 10_000},
        {"content__type": b"c" * 10_000},
        {"traceparent": b"0" * 10_000},
    ]
    for change in wrong:
        found = refusal(fact, Record(fact.event.topic, body, headers=headers(fact, **change)))
        assert isinstance(found, UndecodableEvent), change
    assert refusal(fact, Record(fact.event.topic, body, key=None, headers=headers(fact, ce_subject=b""))) is not None


@pytest.mark.parametrize("fact", FACTS, **TOPIC)
def test_what_is_too_large_is_refused_by_name(fact: Fact) -> None:
    """Value, key, headers: nothing that is kept is without bound, and no index is asked to hold it."""
    for record in (
        Record(fact.event.topic, b"a" * (RECORD_LIMIT + 1), headers=headers(fact)),
        Record(fact.event.topic, b"a", key=b"k" * (KEY_LIMIT + 1), headers=headers(fact)),
        Record(fact.event.topic, b"a", headers=[*headers(fact), ("x", b"a" * HEADERS_LIMIT)]),
    ):
        assert isinstance(refusal(fact, record), TooLarge)


@pytest.mark.parametrize("fact", COLUMNS, **TOPIC)
@pytest.mark.parametrize(
    "change", [{"ce_id": None}, {"ce_id": b"\xff\0" * 3000}, {"ce_source": b"s\0" * 5000}, {"ce_time": b""}]
)
def test_a_stranger_needs_no_more_than_a_subject(fact: Fact, change: dict[str, bytes | None]) -> None:
    """An id that is no UUID and a source of any length still name the record; the time is Kafka's."""
    given = [(name, value) for name, value in headers(fact, **change) if value != b""]
    assert refusal(fact, Record(fact.event.topic, b"x", headers=given)) is None
    assert refusal(fact, Record(fact.event.topic, b"x")) is None


@pytest.mark.parametrize("timestamp", [-1, -(2**63), 2**63 - 1, 253_402_300_800_000, 10**15])
def test_a_timestamp_that_is_none_is_no_reason_to_fail(timestamp: int) -> None:
    """Any producer may set it; a record that could not be dated would stop its partition for ever."""
    fact = BY_TOPIC["data-arrived.v1"]
    assert refusal(fact, Record(fact.event.topic, b"x", timestamp=timestamp)) is None
