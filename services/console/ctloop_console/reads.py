"""What the console answers, put together from facts in one connection each."""

from collections.abc import Sequence
from uuid import UUID

from ctloop.events.training import RetrainDecided
from ctloop_console.domain.facts import Fact
from ctloop_console.domain.loops import Loop, fold_loop
from ctloop_console.domain.why import Why, explain
from ctloop_console.store import Connection, ConsoleStore


class Reads:
    """Loops and why."""

    def __init__(self, store: ConsoleStore) -> None:
        self.store = store

    async def loops(
        self, connection: Connection, model: str | None, before: int | None, limit: int
    ) -> tuple[tuple[Loop, ...], int | None]:
        """Loops, newest first, and the cursor to go on from; None: there are no more."""
        decided = await self.store.decisions(connection, model, before, limit)
        more = decided[-1].seq if len(decided) == limit else None
        return await self._fold(connection, decided), more

    async def loop(self, connection: Connection, loop_id: UUID) -> Loop | None:
        """One loop."""
        decided = [fact for fact in await self.store.by_ids(connection, [loop_id]) if fact.of(RetrainDecided)]
        return (await self._fold(connection, decided))[0] if decided else None

    async def why_run(self, connection: Connection, run_id: UUID) -> Why | None:
        """Why a run is what it is; None: no fact names it."""
        run = await self.store.of_run(connection, run_id)
        if not run:
            return None
        loop_id = next((fact.loop_id for fact in run if fact.loop_id), None)
        loop = await self.store.of_loops(connection, [loop_id]) if loop_id else ()
        causes = await self._causes(connection, loop)
        return explain(run[0].subject, run, loop, causes)

    async def _causes(self, connection: Connection, facts: Sequence[Fact]) -> tuple[Fact, ...]:
        wanted = {cause for fact in facts if (said := fact.of(RetrainDecided)) for cause in said.causes}
        return await self.store.by_ids(connection, list(wanted)) if wanted else ()

    async def _fold(self, connection: Connection, decided: Sequence[Fact]) -> tuple[Loop, ...]:
        facts = await self.store.of_loops(connection, [fact.id for fact in decided])
        runs_of_all = {run for fact in facts if (run := run_of(fact))}
        by_hand = await self.store.promoted_by_hand(connection, list(runs_of_all))
        causes = {fact.id: fact for fact in await self._causes(connection, decided)}
        numbers = await self.store.numbers(connection, [fact.id for fact in decided])
        loops: list[Loop] = []
        for decision in decided:
            said = decision.of(RetrainDecided)
            known = [causes[cause] for cause in (said.causes if said else ()) if cause in causes]
            own = [fact for fact in facts if fact.loop_id == decision.id]
            runs = {run_of(fact) for fact in own}
            own += [fact for fact in by_hand if run_of(fact) in runs]
            folded = fold_loop(decision, own, known)
            loops.append(folded.model_copy(update={"number": numbers.get(decision.id, 0)}))
        return tuple(loops)


def run_of(fact: Fact) -> UUID | None:
    """The run a fact of a loop is about."""
    return getattr(fact.event, "run_id", None)
