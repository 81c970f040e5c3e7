"""The spans of facts, by the names of OpenTelemetry's conventions for messaging: send, process, and a loop's decision."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any
from uuid import UUID

from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from ctloop.events.envelope import Envelope, Event, ModelEvent
from ctloop.platform import spans
from ctloop.platform.delivery.hears import Said
from ctloop.platform.delivery.records import Arrival
from ctloop.platform.spans import Attributes

Headers = list[tuple[str, bytes]]
DEAD = "x-dlq-reason-code"
"""Marks the copy of a dead letter: its other headers are whatever came."""
SPANS = 5
"""Tries of a fact that get a span; those after them would make its trace as long as its wait."""


def chunk(service: str, arrivals: Sequence[Arrival]) -> AbstractContextManager[object]:
    """A trace of its own for a chunk, linked to where its facts were said; none where every fact has its own span."""
    first, envelopes = arrivals[0], [one.envelope for one in arrivals]
    if not first.hears.bulk and all(one is not None and of_a_loop(one) for one in envelopes):
        return nullcontext()
    topic = first.raw.topic
    return spans.span(
        f"process {topic}",
        kind=SpanKind.CONSUMER,
        links=spans.links_to(one.traceparent for one in envelopes if one is not None),
        attributes={
            **messaging("process", topic),
            "messaging.destination.partition.id": str(first.raw.part),
            "messaging.consumer.group.name": service,
            "messaging.batch.message_count": len(arrivals),
        },
    )


def fact(service: str, arrival: Arrival) -> AbstractContextManager[object]:
    """A fact of a loop gets its own span, child of where it was said; others stay in the chunk's."""
    raw, envelope = arrival.raw, arrival.envelope
    if envelope is None or not of_a_loop(envelope):
        return nullcontext()
    if arrival.tries > SPANS:
        return spans.going_on(envelope.traceparent, envelope.loop_id)
    return spans.span(
        f"process {raw.topic}",
        parent=envelope.traceparent,
        loop_id=envelope.loop_id,
        kind=SpanKind.CONSUMER,
        links=spans.links_to([envelope.traceparent]),
        attributes={
            **messaging("process", raw.topic),
            **message(envelope.id, envelope.key, envelope.loop_id),
            "messaging.destination.partition.id": str(raw.part),
            "messaging.consumer.group.name": service,
            "messaging.kafka.offset": raw.offset,
            "cloudevents.event_id": str(envelope.id),
            "cloudevents.event_source": envelope.source,
            "cloudevents.event_type": envelope.type,
            "cloudevents.event_subject": envelope.subject,
            **named(arrival.event),
        },
    )


def sending(topic: str, key: bytes, headers: Headers) -> tuple[Span, Headers]:
    """The span of one send of a fact of a loop, to be ended by who sends, and headers that carry it; else neither."""
    held = dict(headers)
    if "ce_loopid" not in held or "traceparent" not in held or DEAD in held:
        return INVALID_SPAN, headers
    loop_id = UUID(held["ce_loopid"].decode())
    made = spans.open_span(
        f"send {topic}",
        parent=held["traceparent"].decode(),
        loop_id=loop_id,
        kind=SpanKind.PRODUCER,
        attributes={**messaging("send", topic), **message(UUID(held["ce_id"].decode()), key, loop_id)},
    )
    held["traceparent"] = (spans.traceparent_of(made) or held["traceparent"].decode()).encode()
    return made, list(held.items())


def decision(said: Said, cause: Envelope, start: datetime) -> None:
    """The root of the loop a decision starts. A transaction that is tried again says it again, under the same ids."""
    spans.begin_loop(
        f"decide {said.event.subject}",
        said.envelope.id,
        start=start,
        causes=[spans.current_traceparent(), cause.traceparent],
        attributes={
            **named(said.event),
            "ctloop.decision.trigger": getattr(said.event, "trigger", None),
            "ctloop.decision.causes": [str(one) for one in getattr(said.event, "causes", ())],
        },
    )


def of_a_loop(envelope: Envelope) -> bool:
    """Whether a fact goes on with the trace of a loop."""
    return envelope.loop_id is not None and envelope.traceparent is not None


def messaging(operation: str, topic: str) -> Attributes:
    """What every span about a topic says."""
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": topic,
    }


def message(id: UUID, key: bytes, loop_id: UUID | None) -> Attributes:
    """What a span about one fact says."""
    return {
        "messaging.message.id": str(id),
        "messaging.message.conversation_id": str(loop_id) if loop_id else None,
        "messaging.kafka.message.key": key.decode("utf-8", "replace"),
    }


def named(event: Event | None) -> Attributes:
    """What a fact is about: model, version, run, decision, dataset version, verdict."""
    found: Any = event
    data = getattr(found, "dataset_version", None)
    verdict, run, decided = (getattr(found, name, None) for name in ("verdict", "run_id", "decision_id"))
    return {
        "ctloop.model.name": found.subject if isinstance(event, ModelEvent) else None,
        "ctloop.model.version": getattr(found, "version", None) if isinstance(event, ModelEvent) else None,
        "ctloop.run.id": str(run) if run else None,
        "ctloop.decision.id": str(decided) if decided else None,
        "ctloop.dataset.version": f"{found.dataset}@{data.n}" if data else None,
        "ctloop.verdict": str(verdict) if verdict else None,
    }
