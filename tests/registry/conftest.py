"""The registry's handlers on a real PostgreSQL, told facts and commands one by one."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from ctloop.events.envelope import Envelope, Event
from ctloop.events.manifest import ConditionSpec, Manifest
from ctloop.events.model import ModelValidated, PerformanceMeasured
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.values import Measured, Verdict, Window
from ctloop.platform.delivery import Edge
from ctloop.platform.migrate import make_schema
from ctloop.platform.settings import S3Settings
from ctloop.platform.storage import Objects
from ctloop.policy.conditions import compile_condition
from ctloop_registry.api import create_api
from ctloop_registry.commands import ApplyPipeline
from ctloop_registry.handlers import HEARS, RegistryHandlers
from ctloop_registry.store import RegistryStore

EXAMPLES = Path(__file__).parents[2] / "contracts" / "examples"
RUNS = UUID("0b2f0c7e-5d6f-4a49-9d6c-3f0f6a1b7c55")


def run_of(number: int) -> UUID:
    """The id of the n-th run."""
    return uuid5(RUNS, str(number))


@dataclass
class Registry:
    """Tells the registry things, each in a transaction of its own."""

    edge: Edge
    store: RegistryStore
    manifest: Manifest
    template: ModelValidated
    told: int = 0
    runs: UUID = RUNS

    @property
    def model(self) -> str:
        return self.manifest.model

    async def tell(self, what: Event, cause: UUID | None = None) -> tuple[Event, ...]:
        """Have one fact handled."""
        self.told += 1
        envelope = Envelope(
            id=cause or uuid5(RUNS, f"cause {self.told}"),
            source="/ctloop/test",
            type=what.type(),
            subject=what.subject,
            time=datetime.now(UTC),
            loop_id=uuid5(RUNS, "loop"),
        )
        async with self.edge.transaction() as connection:
            return tuple(one.event for one in await self.edge.handle(connection, what, envelope))

    async def judged(
        self, run: int, epoch: int, verdict: Verdict = Verdict.PASSED, **changes: Any
    ) -> tuple[Event, ...]:
        """Tell it a verdict about a run, against the champion of an epoch."""
        said = {"run_id": run_of(run), "champion_epoch": epoch, "verdict": verdict, **changes}
        return await self.tell(self.template.model_copy(update=said))

    async def ask(self, command: Any, key: str | None = None) -> tuple[Event, ...]:
        """Have a command carried out."""
        return tuple(one.event for one in await self.edge.execute(command, key=key))

    async def read(self, question: Any, *arguments: Any) -> Any:
        """Ask the store."""
        async with self.edge.reading() as connection:
            return await question(connection, *arguments)

    async def epochs(self) -> list[tuple[int, int]]:
        """(epoch, version) of every move, oldest first."""
        return [(one.epoch, one.version) for one in await self.read(self.store.pointer.history, self.model)]


def manifest_of_example() -> Manifest:
    """The golden manifest, with a rollback condition."""
    text = (EXAMPLES / "pipeline-released.v1" / "1.json").read_text()
    manifest = PipelineReleased.model_validate_json(text).manifest
    condition = "log_loss > 0.9 and labels > 100"
    rollback = ConditionSpec(text=condition, tree=compile_condition(condition, ("log_loss", "labels")).to_json())
    return manifest.model_copy(update={"rollback": rollback, "autonomy": "act"})


@pytest.fixture
async def registry(database: str) -> AsyncIterator[Registry]:
    """A registry with one applied pipeline, in an empty schema."""
    connection = await asyncpg.connect(database)
    await connection.execute("DROP SCHEMA IF EXISTS registry CASCADE")
    await make_schema(connection, "registry", None)
    await connection.close()
    store = RegistryStore()
    handlers = RegistryHandlers(store)
    edge = Edge("registry", [(one, handlers) for one in HEARS])
    async with asyncpg.create_pool(
        database, min_size=1, max_size=4, server_settings={"search_path": "registry"}
    ) as pool:
        edge.open(pool)
        manifest = manifest_of_example()
        text = (EXAMPLES / "model-validated.v1" / "1.json").read_text()
        template = ModelValidated.model_validate_json(text).model_copy(
            update={"model": manifest.model, "pipeline_digest": manifest.digest}
        )
        made = Registry(edge, store, manifest, template)
        await made.ask(ApplyPipeline(manifest=manifest))
        yield made


@pytest.fixture
def measured(registry: Registry) -> Callable[..., PerformanceMeasured]:
    """A window of a version under an epoch."""

    def window(*, log_loss: float, version: int, epoch: int) -> PerformanceMeasured:
        end = datetime(2013, 5, 20, tzinfo=UTC)
        return PerformanceMeasured(
            model=registry.model, version=version, epoch=epoch, window=Window(start=end - timedelta(days=7), end=end),
            predictions=1000, labels=500, coverage=0.5, metrics=(Measured(name="log_loss", value=log_loss),),
            data_time=end,
        )  # fmt: skip

    return window


@pytest.fixture
async def client(registry: Registry) -> AsyncIterator[AsyncClient]:
    """The registry's paths, without the service around them."""
    app = FastAPI()
    app.include_router(create_api(registry.store, Objects(S3Settings()))(registry.edge))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://registry") as opened:
        yield opened
