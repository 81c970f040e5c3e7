"""A fact as the console keeps it: envelope, payload, and when it was heard."""

from functools import cached_property
from typing import Any, TypeVar
from uuid import UUID

from pydantic import AwareDatetime, ConfigDict, Field

from ctloop.events.envelope import Event, Value
from ctloop.events.topics import BY_TOPIC

E = TypeVar("E", bound=Event)


class Fact(Value):
    """One fact of the control plane."""

    model_config = ConfigDict(frozen=True, extra="ignore", ignored_types=(cached_property,))

    seq: int = Field(description="Order in which the console heard it; the cursor of timeline and stream.")
    id: UUID
    topic: str
    source: str
    subject: str
    time: AwareDatetime = Field(description="When it was said.")
    heard_at: AwareDatetime
    loop_id: UUID | None
    causation_id: UUID | None
    traceparent: str | None
    payload: str = Field(description="The JSON it was said in.")

    @cached_property
    def event(self) -> Event:
        """The typed fact."""
        return BY_TOPIC[self.topic].event.model_validate_json(self.payload)

    def of(self, kind: type[E]) -> E | None:
        """The typed fact when it is of that class."""
        return self.event if self.topic == kind.topic and isinstance(self.event, kind) else None

    @property
    def service(self) -> str:
        """Who said it, without the path."""
        return self.source.rsplit("/", 1)[-1]

    @property
    def name(self) -> str:
        """The event's name, e.g. ModelPromoted."""
        return BY_TOPIC[self.topic].event.__name__


class Line(Value):
    """A fact as people read it."""

    seq: int
    id: UUID
    time: AwareDatetime
    service: str
    fact: str = Field(description="The event's name, e.g. ModelPromoted.")
    topic: str
    subject: str
    sentence: str
    loop_id: UUID | None
    causation_id: UUID | None
    trace_id: str | None
    data: dict[str, Any] = Field(default={}, description="The payload; empty unless it was asked for.")


def trace_id(traceparent: str | None) -> str | None:
    """The trace id of a W3C traceparent.

    >>> trace_id("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    '4bf92f3577b34da6a3ce929d0e0e4736'
    """
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) == 4 else None
