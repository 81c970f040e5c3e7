"""What ingestion does with each thing it hears, on a real PostgreSQL."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import pyarrow as pa
import pytest

from ctloop.events.data import DataArrived, DataLanded
from ctloop.events.envelope import ARROW_STREAM, NDJSON, Envelope
from ctloop.events.errors import DatasetNotYetKnown, Truncated, UnsupportedFormat
from ctloop.events.manifest import FieldSpec, Manifest, RecordSpec
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.values import ObjectRef
from ctloop.platform.delivery import Edge, Heard, on
from ctloop.platform.jobs import JobFailed
from ctloop.platform.migrate import make_schema
from ctloop.platform.pipelines import PipelineHandlers
from ctloop_ingestion.domain.bodies import write_arrow
from ctloop_ingestion.domain.coalescing import Limits
from ctloop_ingestion.handlers import HEARS, IngestionHandlers
from ctloop_ingestion.store import IngestionStore
from ctloop_ingestion.work import BatchStaged, CloseBatch, StageBatch

NAMESPACE = UUID("0e4d7a56-2b53-4b9f-8a0f-0f9f6e0b7c11")
REF = ObjectRef(uri="s3://b/k", sha256="0" * 64, bytes=1, format="parquet")
MANIFEST = Manifest(
    model="visits",
    task="regression",
    record=RecordSpec(dataset="visit", id="id", time=None, fields=(FieldSpec(name="id", kind="string"),)),
    metric="rmse",
    module="m",
    function="visits",
    bundle=REF,
    python="3.11",
)


@dataclass
class Ingestion:
    """Hands facts to the handlers, each call in a transaction of its own."""

    edge: Edge
    handlers: IngestionHandlers
    told: int = 0

    def arrival(
        self, rows: int = 1, dataset: str = "visit", content_type: str = ARROW_STREAM, body: bytes = b""
    ) -> Heard:
        """An arrival nobody has seen before."""
        self.told += 1
        body = body or write_arrow(pa.table({"id": [f"v{self.told}-{row}" for row in range(rows)]}))
        event = DataArrived(dataset=dataset, content_type=content_type, body=body)
        return Heard(event, self.cause(DataArrived.type(), dataset))

    def cause(self, type: str, subject: str) -> Envelope:
        """An envelope of its own."""
        self.told += 1
        return Envelope(
            id=uuid5(NAMESPACE, str(self.told)), source="/t", type=type, subject=subject, time=datetime.now(UTC)
        )

    async def hear(self, *heard: Heard) -> None:
        """A chunk of arrivals."""
        async with self.edge.transaction() as connection:
            await self.handlers.on_data_arrived(heard, self.edge.work(connection, heard[-1].envelope))

    async def tell(self, what: Any) -> tuple[Any, ...]:
        """One timer or the end of a job."""
        async with self.edge.transaction() as connection:
            said = await self.edge.handle(connection, what, self.cause("io.ctloop.job.x", "visit"))
        return tuple(one.event for one in said)

    async def ask(self, query: str) -> Any:
        """One value."""
        async with self.edge.reading() as connection:
            return await connection.fetchval(query)

    async def jobs(self, kind: str) -> int:
        """Open jobs of a kind."""
        return await self.ask(f"SELECT count(*) FROM job WHERE kind = '{kind}' AND state = 'QUEUED'")


@pytest.fixture
async def ingestion(database: str) -> AsyncIterator[Ingestion]:
    """Ingestion with empty tables, that knows one model file."""
    admin = await asyncpg.connect(database)
    await admin.execute('DROP SCHEMA IF EXISTS "ingestion" CASCADE')
    await make_schema(admin, "ingestion", None)
    await admin.close()
    handlers = IngestionHandlers(IngestionStore(), Limits(rows=10, bytes=10_000))
    released = on(PipelineReleased, PipelineHandlers.on_pipeline_released)
    edge = Edge("ingestion", [(released, PipelineHandlers()), *((one, handlers) for one in HEARS)])
    async with asyncpg.create_pool(
        database, min_size=1, max_size=2, server_settings={"search_path": "ingestion"}
    ) as pool:
        edge.open(pool)
        made = Ingestion(edge, handlers)
        await made.tell(PipelineReleased(model="visits", pipeline_version=1, digest=MANIFEST.digest, manifest=MANIFEST))
        yield made


async def test_small_arrivals_wait_for_one_another(ingestion: Ingestion) -> None:
    """Two arrivals share the open batch; its timer is set once, and when it goes off the batch is staged."""
    await ingestion.hear(ingestion.arrival(), ingestion.arrival())
    await ingestion.hear(ingestion.arrival())
    assert (await ingestion.jobs("close-batch"), await ingestion.jobs("stage-batch")) == (1, 0)
    await ingestion.tell(CloseBatch(dataset="visit", number=1))
    assert await ingestion.jobs("stage-batch") == 1
    assert await ingestion.ask("SELECT array_agg(DISTINCT number) FROM arrival") == [1]
    await ingestion.hear(ingestion.arrival())
    assert await ingestion.ask("SELECT max(number) FROM arrival") == 2


async def test_a_full_batch_is_staged_at_once(ingestion: Ingestion) -> None:
    """Its timer then finds it closed, and does nothing."""
    await ingestion.hear(ingestion.arrival(6), ingestion.arrival(6), ingestion.arrival(1))
    assert await ingestion.ask("SELECT array_agg(number ORDER BY seq) FROM arrival") == [1, 2, 2]
    await ingestion.tell(CloseBatch(dataset="visit", number=1))
    assert await ingestion.jobs("stage-batch") == 1
    await ingestion.hear(ingestion.arrival(50))
    assert await ingestion.ask("SELECT array_agg(number ORDER BY seq) FROM arrival") == [1, 2, 2, 3]
    assert await ingestion.jobs("stage-batch") == 3


async def test_a_landed_batch_is_said_and_its_bodies_go(ingestion: Ingestion) -> None:
    """The ledger stays."""
    arrival = ingestion.arrival()
    await ingestion.hear(arrival)
    await ingestion.tell(CloseBatch(dataset="visit", number=1))
    (said,) = await ingestion.tell(
        BatchStaged(
            dataset="visit", number=1, batch=REF, rows=1, labels=0, first_time=None, last_time=None,
            arrivals=(arrival.envelope.id,),
        )
    )  # fmt: skip
    assert isinstance(said, DataLanded)
    assert (said.number, said.rows, said.arrivals) == (1, 1, (arrival.envelope.id,))
    assert await ingestion.ask("SELECT count(*) FROM arrival_body") == 0
    assert await ingestion.ask("SELECT count(*) FROM arrival") == 1


async def test_a_batch_that_cannot_be_staged_is_set_aside(ingestion: Ingestion) -> None:
    """Its arrivals and their bodies are kept, with the reason; nothing accepted is lost."""
    await ingestion.hear(ingestion.arrival())
    failed = JobFailed(StageBatch(dataset="visit", number=1), "exhausted", "the store is away", 2000)
    async with ingestion.edge.transaction() as connection:
        work = ingestion.edge.work(connection, ingestion.cause("io.ctloop.job.x", "visit"))
        assert await ingestion.handlers.on_stage_failed(failed, work) == ()
    assert await ingestion.ask("SELECT problem FROM batch") == "the store is away"
    assert await ingestion.ask("SELECT count(*) FROM arrival_body") == 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"dataset": "nobody"}, DatasetNotYetKnown),
        ({"body": b"cut"}, Truncated),
        ({"content_type": "text/csv", "body": b"a,b"}, UnsupportedFormat),
    ],
)
async def test_what_cannot_be_taken_has_no_effect(
    ingestion: Ingestion, change: dict[str, Any], error: type[Exception]
) -> None:
    """The name of the error decides its fate; a good arrival in the same chunk is not half taken."""
    with pytest.raises(error):
        await ingestion.hear(ingestion.arrival(), ingestion.arrival(**change))
    assert await ingestion.ask("SELECT count(*) FROM arrival") == 0
    await ingestion.hear(ingestion.arrival(content_type=NDJSON, body=b'{"id": "a"}\nbroken'))
    assert await ingestion.ask("SELECT count(*) FROM arrival") == 1
