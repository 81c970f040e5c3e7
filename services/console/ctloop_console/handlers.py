"""What the console does with every fact: keep it."""

from collections.abc import Callable, Sequence

from ctloop.events.envelope import Event
from ctloop.events.topics import FACTS
from ctloop.platform.delivery import Heard, UnitOfWork, on
from ctloop_console.store import ConsoleStore


class ConsoleHandlers:
    """One handler for all facts; everything else is folded when it is asked for."""

    def __init__(self, store: ConsoleStore, changed: Callable[[], None]) -> None:
        self.store = store
        self.changed = changed

    async def on_facts(self, heard: Sequence[Heard], work: UnitOfWork) -> tuple[tuple[Event, ...], ...]:
        """Keep facts and wake who reads the stream; they read again after the commit."""
        await self.store.add(work.connection, [(one.event, one.envelope) for one in heard], work.now)
        self.changed()
        return tuple(() for _ in heard)


HEARS = tuple(
    on(fact.event, ConsoleHandlers.on_facts, commutative=True, bulk=True)
    for fact in FACTS
    if "console" in fact.heard_by
)
