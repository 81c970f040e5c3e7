"""The console's handlers on a real PostgreSQL, and a loop's facts from the golden examples."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid5

import asyncpg
import pytest

from ctloop.events.data import DataValidated
from ctloop.events.envelope import Envelope, Event
from ctloop.events.model import ModelDeployed, ModelPromoted, ModelValidated
from ctloop.events.topics import BY_EVENT
from ctloop.events.training import ModelTrained, RetrainDecided, TrainingStarted
from ctloop.platform.delivery import Edge, Heard
from ctloop.platform.migrate import make_schema
from ctloop_console.feed import Feed
from ctloop_console.handlers import HEARS, ConsoleHandlers
from ctloop_console.store import ConsoleStore

EXAMPLES = Path(__file__).parents[2] / "contracts" / "examples"
IDS = UUID("77c0de10-54f1-4d53-8f5e-3a3f6f1c9d21")
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MODEL = "flights"
E = TypeVar("E", bound=Event)


def example(kind: type[E], **changes: Any) -> E:
    """The golden example of a fact, changed."""
    text = (EXAMPLES / kind.topic / "1.json").read_text()
    return kind.model_validate_json(text).model_copy(update=changes)


@dataclass
class Console:
    """Tells the console facts, in chunks."""

    edge: Edge
    store: ConsoleStore
    feed: Feed

    async def hear(self, facts: Sequence[Heard]) -> None:
        """Have facts handled in one transaction."""
        async with self.edge.transaction() as connection:
            for fact in facts:
                hears, owner = self.edge.routes[type(fact.event)]
                work = self.edge.work(connection, fact.envelope)
                await (hears.method(owner, [fact], work) if hears.bulk else hears.method(owner, fact.event, work))

    async def read(self, question: Any, *arguments: Any) -> Any:
        """Ask the store or the reads."""
        async with self.edge.reading() as connection:
            return await question(connection, *arguments)


@pytest.fixture
async def console(database: str) -> AsyncIterator[Console]:
    """A console that has heard nothing."""
    connection = await asyncpg.connect(database)
    await connection.execute("DROP SCHEMA IF EXISTS console CASCADE")
    await make_schema(connection, "console", None)
    await connection.close()
    store, feed = ConsoleStore(), Feed()
    handlers = ConsoleHandlers(store, feed.ring)
    edge = Edge("console", [(one, handlers) for one in HEARS])
    async with asyncpg.create_pool(
        database, min_size=1, max_size=4, server_settings={"search_path": "console"}
    ) as pool:
        edge.open(pool)
        yield Console(edge, store, feed)


def heard(
    event: Event, seconds: float, *, loop: UUID | None, id: UUID | None = None, cause: UUID | None = None
) -> Heard:
    """A fact said so many seconds after the start."""
    envelope = Envelope(
        id=id or uuid5(IDS, f"{event.topic} {seconds}"),
        source=f"/ctloop/{BY_EVENT[type(event)].said_by}",
        type=event.type(),
        subject=event.subject,
        time=START + timedelta(seconds=seconds),
        loop_id=loop,
        causation_id=cause,
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )
    return Heard(event, envelope)


def loop_facts(number: int = 1) -> list[Heard]:
    """A loop that closes 10 s after its decision: 4 s of the user's function, 1 s of replay."""
    at = 100.0 * number
    run, loop, cause = (uuid5(IDS, f"{name} {number}") for name in ("run", "loop", "cause"))
    ids = {"model": MODEL, "run_id": run}
    decided = example(RetrainDecided, model=MODEL, decision_id=loop, causes=(cause,))
    answered = START + timedelta(seconds=at + 10)
    return [
        heard(example(DataValidated), at - 0.5, loop=None, id=cause),
        heard(decided, at, loop=loop, id=loop, cause=cause),
        heard(example(TrainingStarted, **ids, decision_id=loop), at + 1, loop=loop),
        heard(example(ModelTrained, **ids, decision_id=loop, user_seconds=4.0), at + 6, loop=loop),
        heard(example(ModelValidated, **ids, replay_seconds=1.0), at + 8, loop=loop),
        heard(example(ModelPromoted, **ids, version=number, epoch=number), at + 9, loop=loop),
        heard(
            example(ModelDeployed, model=MODEL, version=number, epoch=number, first_answer_at=answered),
            at + 10.1,
            loop=loop,
        ),
    ]


@pytest.fixture
def facts() -> Any:
    """Makes the facts of a model's n-th loop."""
    return loop_facts
