"""What a service hears and says: the only routing there is, one line per fact at the foot of handlers.py."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ctloop.events.envelope import Envelope, Event, Value
from ctloop.events.errors import CtloopError

Handler = Callable[..., Awaitable[Any]]
"""A method of the service's handlers: (self, what, work) -> tuple of events."""


class Command(Value):
    """Something a person or a client asks for over HTTP; never an event."""

    @property
    def subject(self) -> str:
        """Dataset or model it is about."""
        return str(getattr(self, "model", "") or getattr(self, "dataset", "") or type(self).__name__)


@dataclass(frozen=True)
class Hears:
    """One line of a service's topology."""

    event: type[Any]
    """An Event, the end of a job, a Timer, or a Command."""
    method: Handler
    says: tuple[type[Event], ...] = ()
    commutative: bool = False
    bulk: bool = False


def on(
    event: type[Any],
    method: Handler,
    says: tuple[type[Event], ...] = (),
    *,
    commutative: bool = False,
    bulk: bool = False,
) -> Hears:
    """A line of HEARS. ``commutative``: order within a key does not matter, so nothing waits behind a parked event.
    ``bulk``: the method takes a sequence of Heard and returns one tuple of events for each."""
    return Hears(event, method, says, commutative, bulk)


@dataclass(frozen=True)
class Heard:
    """A fact with its envelope."""

    event: Any
    envelope: Envelope


@dataclass(frozen=True)
class Said:
    """A fact as it goes out."""

    event: Event
    envelope: Envelope


class Refused(CtloopError):
    """A command's no: nothing is saved; the API answers with the problem. ``retry_after`` in seconds."""

    def __init__(
        self, status: int, code: str, title: str, *, detail: str = "", hint: str = "", retry_after: int | None = None
    ) -> None:
        super().__init__(f"{code}: {title}")
        self.status, self.code, self.title, self.detail, self.hint = status, code, title, detail, hint
        self.retry_after = retry_after


class IdempotencyConflict(Refused):
    """An Idempotency-Key used before with another body."""

    STATUS: ClassVar[int] = 422

    def __init__(self, key: str) -> None:
        super().__init__(
            self.STATUS, "CT4221", f"Idempotency-Key {key!r} was used before with another body", hint="use a new key"
        )


class InFlight(Refused):
    """An Idempotency-Key whose request is being carried out at this moment."""

    def __init__(self, key: str) -> None:
        title = f"a request with Idempotency-Key {key!r} is being carried out"
        super().__init__(409, "CT4090", title, hint="wait for its answer, or send it again in a second", retry_after=1)


def said_types(hears: Sequence[Hears]) -> tuple[type[Event], ...]:
    """Every fact a table says, once, in order."""
    return tuple(dict.fromkeys(event for one in hears for event in one.says))
