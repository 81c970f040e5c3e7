"""What validation does with landed batches and ended audits, on a real PostgreSQL."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import pytest

from ctloop.events.data import DataLanded, DataValidated
from ctloop.events.envelope import Envelope
from ctloop.events.errors import DatasetNotYetKnown
from ctloop.events.manifest import FieldSpec, Manifest, RecordSpec
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.values import ObjectRef, RuleCount, Verdict
from ctloop.platform.delivery import Edge, on
from ctloop.platform.jobs import JobFailed
from ctloop.platform.migrate import make_schema
from ctloop.platform.pipelines import PipelineHandlers
from ctloop_validation.handlers import HEARS, ValidationHandlers
from ctloop_validation.model_store import ModelStore
from ctloop_validation.store import ValidationStore
from ctloop_validation.work import AuditBatch, BatchAudited, QuarantinedRow

NAMESPACE = UUID("7b1f3f7e-6a0b-4bb0-9f3e-4ef8b1f1a922")
REF = ObjectRef(uri="s3://b/k", sha256="0" * 64, bytes=1, format="parquet")
TIME = datetime(2013, 1, 2, tzinfo=UTC)


def manifest(model: str, *columns: str, dataset: str = "visit") -> Manifest:
    """A model file over a dataset."""
    fields = tuple(FieldSpec(name=name, kind="string") for name in ("id", *columns))
    return Manifest(
        model=model,
        task="regression",
        record=RecordSpec(dataset=dataset, id="id", time=None, fields=fields, label=FieldSpec(name="y", kind="number")),
        metric="rmse",
        module="m",
        function=model,
        bundle=REF,
        python="3.11",
    )


def audited(number: int, **change: Any) -> BatchAudited:
    """The end of an audit that accepted one record and one label."""
    found: dict[str, Any] = {
        "dataset": "visit", "number": number, "batch": REF, "records": REF, "labels": REF, "quarantine": None, "rows": 1,
        "labelled": 1, "duplicates": 0, "quarantined": (), "shown": (), "clock_suspect": 0, "data_time": TIME,
        "records_version": number, "labels_version": number, "digest_first": 2**64 - 1, "digest_second": 5,
        "digest_rows": 2, "table_schema": "id:string", "report": REF, "record_ids": [f"v{number}"],
        "record_digests": [bytes(16)], "label_ids": ["v1"], "label_digests": [number.to_bytes(16, "big")],
    }  # fmt: skip
    return BatchAudited.model_validate(found | change)


@dataclass
class Validation:
    """Hands facts to the handlers, each in a transaction of its own."""

    edge: Edge
    handlers: ValidationHandlers
    store: ValidationStore
    told: int = 0

    async def tell(self, what: Any) -> tuple[Any, ...]:
        """One fact or the end of a job."""
        async with self.edge.transaction() as connection:
            said = await self.edge.handle(connection, what, self.cause())
        return tuple(one.event for one in said)

    def cause(self) -> Envelope:
        """An envelope of its own."""
        self.told += 1
        return Envelope(
            id=uuid5(NAMESPACE, str(self.told)), source="/t", type="io.ctloop.job.x", subject="visit", time=TIME
        )

    async def release(self, made: Manifest) -> None:
        """A model file is applied."""
        await self.tell(PipelineReleased(model=made.model, pipeline_version=1, digest=made.digest, manifest=made))

    async def audits(self) -> list[AuditBatch]:
        """Queued audits."""
        async with self.edge.reading() as connection:
            rows = await connection.fetch("SELECT arguments FROM job WHERE kind = 'audit-batch' ORDER BY seq")
        return [AuditBatch.model_validate_json(row["arguments"]) for row in rows]


@pytest.fixture
async def validation(database: str) -> AsyncIterator[Validation]:
    """Validation with empty tables."""
    admin = await asyncpg.connect(database)
    await admin.execute('DROP SCHEMA IF EXISTS "validation" CASCADE')
    await make_schema(admin, "validation", None)
    await admin.close()
    store = ValidationStore()
    handlers = ValidationHandlers(store, ModelStore())
    released = on(PipelineReleased, PipelineHandlers.on_pipeline_released)
    edge = Edge("validation", [(released, PipelineHandlers()), *((one, handlers) for one in HEARS)])
    async with asyncpg.create_pool(
        database, min_size=1, max_size=2, server_settings={"search_path": "validation"}
    ) as pool:
        edge.open(pool)
        yield Validation(edge, handlers, store)


def landed(number: int = 1, dataset: str = "visit") -> DataLanded:
    """A batch is staged."""
    return DataLanded(dataset=dataset, batch=REF, number=number, rows=3, labels=0, arrivals=())


async def test_a_landed_batch_is_audited_by_the_suite_of_now(validation: Validation) -> None:
    """Once; columns only another model file has are in it as nullable, and a later model file does not change it."""
    await validation.release(manifest("b", "size"))
    await validation.release(manifest("a", "color"))
    await validation.tell(landed())
    await validation.tell(landed())
    await validation.release(manifest("c", "weight"))
    (job,) = await validation.audits()
    assert [(one.name, one.nullable) for one in job.record.fields] == [("id", False), ("color", False), ("size", True)]


async def test_predictions_are_audited_by_their_own_schema(validation: Validation) -> None:
    """Their dataset is known as soon as the model is."""
    await validation.release(manifest("a", "color"))
    await validation.tell(landed(dataset="a.predictions"))
    (job,) = await validation.audits()
    assert job.predictions
    with pytest.raises(DatasetNotYetKnown):
        await validation.tell(landed(dataset="nobody"))


async def test_versions_rise_with_what_is_new(validation: Validation) -> None:
    """A batch that brings nothing leaves the version; digests add up, data time never steps back."""
    (first,) = await validation.tell(audited(1))
    again = audited(
        2, records=None, labels=None, rows=0, labelled=0, duplicates=1, digest_first=0, digest_second=0, digest_rows=0,
        record_ids=[], record_digests=[], label_ids=[], label_digests=[], data_time=None,
    )  # fmt: skip
    (second,) = await validation.tell(again)
    (third,) = await validation.tell(audited(3, data_time=datetime(2012, 1, 1, tzinfo=UTC)))
    assert [one.version.n for one in (first, second, third)] == [1, 1, 2]
    assert second.version == first.version
    assert third.version.digest != first.version.digest
    assert [one.data_time for one in (first, second, third)] == [TIME] * 3
    assert {one.verdict for one in (first, second, third)} == {Verdict.PASSED}
    async with validation.edge.reading() as connection:
        assert await validation.store.known_records(connection, "visit", ["v1", "v2", "v3"]) == {
            "v1": bytes(16), "v3": bytes(16)
        }  # fmt: skip
        assert await validation.store.known_labels(connection, "visit", ["v1"]) == {"v1": (3).to_bytes(16, "big")}


async def test_a_batch_of_bad_rows_fails_and_shows_them(validation: Validation) -> None:
    """The rows are there for people, with every reason."""
    bad = QuarantinedRow(sequence=7, reasons=("size: missing",), row="{}")
    (said,) = await validation.tell(
        audited(
            1, records=None, labels=None, rows=0, labelled=0, quarantined=(RuleCount(rule="size: missing", rows=1),),
            shown=(bad,), record_ids=[], record_digests=[], label_ids=[], label_digests=[],
        )
    )  # fmt: skip
    assert (said.verdict, said.version.n) == (Verdict.FAILED, 0)
    async with validation.edge.reading() as connection:
        (row,) = await validation.store.quarantined(connection, "visit", 1 << 62, 10)
        (kept,) = await validation.store.audits(connection, "visit", 1 << 62, 10)
    assert (row["reasons"], kept["verdict"]) == (["size: missing"], "failed")


async def test_a_batch_that_cannot_be_audited_is_said_to_have_failed(validation: Validation) -> None:
    """Everybody hears so, and the next batch goes on from the version there is."""
    await validation.tell(audited(1))
    job = AuditBatch(dataset="visit", number=2, batch=REF, rows=3, record=manifest("a").record)
    failed = JobFailed(job, "rejected", "ObjectMissing: gone", 1)
    async with validation.edge.transaction() as connection:
        work = validation.edge.work(connection, validation.cause())
        (said,) = await validation.handlers.on_audit_failed(failed, work)
    assert isinstance(said, DataValidated)
    assert (said.verdict, said.version.n, said.quarantined[0].rows) == (Verdict.FAILED, 1, 3)
