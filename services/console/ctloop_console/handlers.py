"""What the console does with every fact: keep it."""

from collections.abc import Callable, Sequence
from uuid import UUID

from prometheus_client import Histogram

from ctloop.events.envelope import Event
from ctloop.events.model import ModelDeployed
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.topics import FACTS
from ctloop.events.training import RetrainDecided
from ctloop.platform.delivery import Heard, UnitOfWork, on
from ctloop.platform.pipelines import PipelineHandlers
from ctloop_console.store import ConsoleStore

LOOP_SECONDS = Histogram(
    "ctloop_loop_duration_seconds", "From the decision to the first answer of the promoted version, in seconds.",
    ["model"], buckets=(0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 900, 3600, 14400),
)  # fmt: skip


class ConsoleHandlers(PipelineHandlers):
    """Keeps all facts; everything else is folded when it is asked for."""

    def __init__(self, store: ConsoleStore, changed: Callable[[], None]) -> None:
        self.store = store
        self.changed = changed

    async def on_facts(self, heard: Sequence[Heard], work: UnitOfWork) -> tuple[tuple[Event, ...], ...]:
        """Keep facts and wake who reads the stream; they read again after the commit."""
        await self.store.add(work.connection, [(one.event, one.envelope) for one in heard], work.now)
        for one in heard:
            if isinstance(one.event, ModelDeployed) and one.envelope.loop_id is not None:
                await self._measure(one.event, one.envelope.loop_id, work)
        self.changed()
        return tuple(() for _ in heard)

    async def _measure(self, event: ModelDeployed, loop_id: UUID, work: UnitOfWork) -> None:
        """How long a loop took to its first answer; the answers of more replicas are not its."""
        of_loop = await self.store.of_loops(work.connection, [loop_id])
        decided = [one.time for one in of_loop if one.topic == RetrainDecided.topic]
        answers = [one for one in of_loop if one.topic == ModelDeployed.topic]
        if decided and len(answers) == 1:
            seconds = (event.first_answer_at - decided[0]).total_seconds()
            LOOP_SECONDS.labels(event.model).observe(seconds, {"trace_id": loop_id.hex})

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
