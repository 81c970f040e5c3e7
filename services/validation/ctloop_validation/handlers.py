"""What validation does with what it hears: audit batches of data, judge models."""

from typing import Any

from ctloop.events.data import DataLanded, DataValidated
from ctloop.events.envelope import Event
from ctloop.events.values import RuleCount, Verdict
from ctloop.platform.delivery import UnitOfWork, on
from ctloop.platform.jobs import JobFailed
from ctloop_validation.domain.suite import suite
from ctloop_validation.model_handlers import MODEL_HEARS, ModelHandlers
from ctloop_validation.model_store import ModelStore
from ctloop_validation.store import Audit, Dataset, ValidationStore
from ctloop_validation.work import AuditBatch, BatchAudited


class ValidationHandlers(ModelHandlers):
    """Is this data fit to learn from? Is this model fit to serve?"""

    def __init__(self, store: ValidationStore, models: ModelStore) -> None:
        self.store, self.models = store, models

    async def on_data_landed(self, event: DataLanded, work: UnitOfWork) -> tuple[Event, ...]:
        """Queue the audit of a landed batch, by the suite as it is now."""
        records, predictions = await self.store.records_of(work.connection, event.dataset)
        job = AuditBatch(
            dataset=event.dataset,
            number=event.number,
            batch=event.batch,
            rows=event.rows,
            record=suite(records),
            predictions=predictions,
        )
        await work.jobs.add(job)
        return ()

    async def on_batch_audited(self, done: BatchAudited, work: UnitOfWork) -> tuple[Event, ...]:
        """The rows are in the lake: make the version, keep the ids, say the verdict."""
        connection, dataset = work.connection, done.dataset
        state = after(await self.store.dataset(connection, dataset), done)
        await self.store.save_dataset(connection, dataset, state, done.number, work.now)
        await self.store.remember(
            connection,
            dataset,
            dict(zip(done.record_ids, done.record_digests, strict=True)),
            dict(zip(done.label_ids, done.label_digests, strict=True)),
        )
        await self.store.quarantine(connection, dataset, done.number, done.shown, work.now)
        said = _validated(done, state)
        await self.store.add_audit(connection, dataset, _audit(said, done), work.now)
        return (said,)

    async def on_audit_failed(self, failed: JobFailed[Any], work: UnitOfWork) -> tuple[Event, ...]:
        """The batch cannot be audited at all: nothing of it is learned from, and everybody hears so."""
        job: AuditBatch = failed.job
        state = await self.store.dataset(work.connection, job.dataset)
        why = failed.message.strip().splitlines()[-1][:300]
        said = DataValidated(
            dataset=job.dataset,
            verdict=Verdict.FAILED,
            batch=job.batch,
            number=job.number,
            version=state.version,
            rows=0,
            labelled=0,
            quarantined=(RuleCount(rule=f"batch: {why}", rows=job.rows),),
            data_time=state.data_time,
            report_uri=job.batch.uri,
        )
        await self.store.add_audit(work.connection, job.dataset, _audit(said, None), work.now)
        return (said,)


def after(state: Dataset, done: BatchAudited) -> Dataset:
    """The dataset after a batch; one that brings nothing new leaves the version as it is."""
    if done.rows + done.labelled == 0:
        return state
    digest = state.digest.plus(done.digest_first, done.digest_second, done.digest_rows)
    version = state.version.model_copy(
        update={
            "n": state.version.n + 1,
            "digest": digest.hex(done.table_schema),
            "records_version": done.records_version,
            "labels_version": done.labels_version,
        }
    )
    times = [time for time in (state.data_time, done.data_time) if time is not None]
    return Dataset(
        version, digest, state.records + done.rows, state.labels + done.labelled, max(times) if times else None
    )


def _validated(done: BatchAudited, state: Dataset) -> DataValidated:
    bad = sum(one.rows for one in done.quarantined)
    nothing = done.rows + done.labelled + done.duplicates == 0
    return DataValidated(
        dataset=done.dataset,
        verdict=Verdict.FAILED if bad and nothing else Verdict.PASSED,
        batch=done.batch,
        number=done.number,
        version=state.version,
        records=done.records,
        labels=done.labels,
        rows=done.rows,
        labelled=done.labelled,
        duplicates=done.duplicates,
        quarantined=done.quarantined,
        clock_suspect=done.clock_suspect,
        data_time=state.data_time,
        report_uri=done.report.uri,
    )


def _audit(said: DataValidated, done: BatchAudited | None) -> Audit:
    return Audit(
        number=said.number,
        verdict=said.verdict.value,
        rows=said.rows,
        labelled=said.labelled,
        duplicates=said.duplicates,
        quarantined=sum(one.rows for one in said.quarantined),
        report_uri=said.report_uri,
        quarantine_uri=done.quarantine.uri if done and done.quarantine else None,
    )


HEARS = (
    on(DataLanded, ValidationHandlers.on_data_landed),
    on(BatchAudited, ValidationHandlers.on_batch_audited, says=(DataValidated,)),
    *MODEL_HEARS,
)
