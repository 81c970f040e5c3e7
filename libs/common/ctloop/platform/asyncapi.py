"""A service's topology as AsyncAPI 3, declared with FastStream from the same table the consume loop runs on."""

import json
from collections.abc import Iterable
from typing import Any

from ctloop.events.envelope import ARROW_STREAM, JSON, NDJSON, Event
from ctloop.events.topics import BY_EVENT


def asyncapi(service: str, hears: Iterable[type[Event]], says: Iterable[type[Event]]) -> dict[str, Any]:
    """The AsyncAPI 3 document of a service: one channel per fact, typed, with its Kafka binding.

    The broker is declared, never started: services consume through ``ctloop.platform.delivery``.
    """
    from faststream.kafka import KafkaBroker
    from faststream.specification import AsyncAPI

    broker = KafkaBroker("kafka:9092")
    for event in hears:
        _subscribe(broker, service, event)
    for event in says:
        broker.publisher(event.topic, title=f"send{event.__name__}", description=_sentence(event), schema=event)
    document = json.loads(AsyncAPI(broker, title=f"ctloop {service}", version="1").to_specification().to_json())
    for channel in document.get("channels", {}).values():
        channel["bindings"]["kafka"]["partitions"] = 4
    for name, message in document.get("components", {}).get("messages", {}).items():
        message["contentType"] = ARROW_STREAM if _carries_columns(name) else JSON
        if message["contentType"] != JSON:
            message["description"] = f"The Kafka value is the data itself: {ARROW_STREAM}, {NDJSON}, or a reference."
        message["headers"] = {"$ref": "#/components/schemas/CloudEventsHeaders"}
    document.setdefault("components", {}).setdefault("schemas", {})["CloudEventsHeaders"] = HEADERS
    return document


HEADERS: dict[str, Any] = {
    "title": "CloudEventsHeaders",
    "description": "CloudEvents 1.0, binary mode.",
    "type": "object",
    "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time"],
    "properties": {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {"type": "string", "format": "uuid"},
        "ce_source": {"type": "string"},
        "ce_type": {"type": "string"},
        "ce_subject": {"type": "string"},
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_loopid": {"type": "string", "format": "uuid"},
        "ce_causationid": {"type": "string", "format": "uuid"},
        "ce_tenant": {"type": "string", "default": "default"},
        "content-type": {"type": "string"},
        "traceparent": {"type": "string"},
    },
}


def _subscribe(broker: Any, service: str, event: type[Event]) -> None:
    async def hear(body: Any) -> None:
        """Declared for the document only."""

    hear.__annotations__["body"] = event
    title = f"receive{event.__name__}"
    broker.subscriber(event.topic, group_id=service, title=title, description=_sentence(event))(hear)


def _sentence(event: type[Event]) -> str:
    return (event.__doc__ or "").strip().splitlines()[0]


def _carries_columns(message: str) -> bool:
    return any(fact.columns and event.__name__ in message for event, fact in BY_EVENT.items())
