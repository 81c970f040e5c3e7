"""What the console does with every fact: keep it."""

from collections.abc import Callable, Sequence

from ctloop.events.envelope import Event
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.topics import FACTS
from ctloop.platform.delivery import Heard, UnitOfWork, on
from ctloop.platform.pipelines import PipelineHandlers
from ctloop_console.store import ConsoleStore


class ConsoleHandlers(PipelineHandlers):
    """Keeps all facts; everything else is folded when it is asked for."""

    def __init__(self, store: ConsoleStore, changed: Callable[[], None]) -> None:
        self.store = store
        self.changed = changed

    async def on_facts(self, heard: Sequence[Heard], work: UnitOfWork) -> tuple[tuple[Event, ...], ...]:
        """Keep facts and wake who reads the stream; they read again after the commit."""
        await self.store.add(work.connection, [(one.event, one.envelope) for one in heard], work.now)
        self.changed()
        return tuple(() for _ in heard)

    async def on_pipeline_released(self, event: PipelineReleased, work: UnitOfWork) -> tuple[Event, ...]:
        """Keep the manifest, as every service does, and the fact."""
        await super().on_pipeline_released(event, work)
        await self.on_facts([Heard(event, work.cause)], work)
        return ()


HEARS = (
    on(PipelineReleased, ConsoleHandlers.on_pipeline_released, commutative=True),
    *(
        on(fact.event, ConsoleHandlers.on_facts, commutative=True, bulk=True)
        for fact in FACTS
        if "console" in fact.heard_by and fact.event is not PipelineReleased
    ),
)
