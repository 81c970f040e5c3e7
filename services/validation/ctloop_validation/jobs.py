"""What validation does outside transactions: write, audit, append. (Models: model_jobs.py.)"""

import asyncio
import json
from typing import Any

import pyarrow as pa

from ctloop.events.manifest import RecordSpec
from ctloop.events.values import ObjectRef, RuleCount
from ctloop.platform.delivery import Edge
from ctloop.platform.jobs import Lease, runs
from ctloop.platform.storage import Appended, Lake, Objects, Roles, schema_text
from ctloop_validation.audit import Outcome, Prepared, finish, parquet, prepare, read_staged
from ctloop_validation.domain.predictions import prediction_record
from ctloop_validation.handlers import ValidationHandlers
from ctloop_validation.model_jobs import MODEL_RUNS, VALIDATION_SECONDS, ModelJobs
from ctloop_validation.model_process import ModelProcess
from ctloop_validation.store import ValidationStore
from ctloop_validation.work import AuditBatch, BatchAudited

COMPACT_EVERY = 64
"""Batches: small files are joined, so that reading does not get slower for ever."""


class ValidationJobs(ModelJobs):
    """The jobs of validation."""

    edge: Edge
    """Given by the composition root once the service is built; the audit asks for ids through it."""

    def __init__(self, store: ValidationStore, objects: Objects, lake: Lake, model_process: ModelProcess) -> None:
        self.store, self.objects, self.lake, self.model_process = store, objects, lake, model_process

    async def audit_batch(self, job: AuditBatch, lease: Lease) -> BatchAudited:
        """Audit and append. What is accepted follows from the batch, the suite in the job and the ids of the batches
        before, so a second attempt accepts the same rows, and the lake takes a batch once.

        Raises:
            ObjectMissing, ObjectMismatch, Truncated: the staged batch is not what was landed.
            TransientError
        """
        with VALIDATION_SECONDS.labels("data").time():
            return await self._audit(job, lease)

    async def _audit(self, job: AuditBatch, lease: Lease) -> BatchAudited:
        record = prediction_record(job.record) if job.predictions else job.record
        staged = await asyncio.to_thread(read_staged, await self.objects.get(job.batch))
        prepared = await asyncio.to_thread(prepare, staged, record)
        outcome = await self._settle(job, prepared, record)
        refs = await self._write(job.dataset, outcome)
        report = await self.objects.put_content(
            f"reports/{job.dataset}", _report(job, outcome, prepared), format="json"
        )
        lease.check()
        appended = await asyncio.to_thread(self._append, job, record, outcome)
        return _audited(job, outcome, prepared, refs, report, appended)

    async def _settle(self, job: AuditBatch, prepared: Prepared, record: RecordSpec) -> Outcome:
        known_records: dict[str, bytes] = {}
        known_labels: dict[str, bytes] = {}
        if not job.predictions:  # serving derives their ids, and the inbox takes each event once
            asked = prepared.asked
            async with self.edge.reading() as connection:
                known_records = await self.store.known_records(connection, job.dataset, asked)
                if record.label is not None:
                    known_labels = await self.store.known_labels(connection, job.dataset, asked)
        return await asyncio.to_thread(finish, prepared, record, known_records, known_labels)

    async def _write(
        self, dataset: str, outcome: Outcome
    ) -> tuple[ObjectRef | None, ObjectRef | None, ObjectRef | None]:
        """Accepted records, accepted labels and refused rows as objects."""

        async def write(kind: str, table: pa.Table | None) -> ObjectRef | None:
            if table is None or not table.num_rows:
                return None
            body = await asyncio.to_thread(parquet, table)
            return await self.objects.put_content(f"{kind}/{dataset}", body, format="parquet")

        return (
            await write("accepted/records", outcome.records),
            await write("accepted/labels", outcome.labels),
            await write("quarantine", outcome.quarantine),
        )

    def _append(self, job: AuditBatch, record: RecordSpec, outcome: Outcome) -> Appended:
        """Blocking."""
        roles = Roles(record.id, record.time, record.label.name if record.label else None)
        appended = self.lake.append(job.dataset, outcome.records, outcome.labels, job.number, roles=roles)
        if job.number % COMPACT_EVERY == 0:
            self.lake.compact(job.dataset)
            appended = self.lake.append(job.dataset, outcome.records, outcome.labels, job.number, roles=roles)
        return appended


def _audited(
    job: AuditBatch,
    outcome: Outcome,
    prepared: Prepared,
    refs: tuple[ObjectRef | None, ObjectRef | None, ObjectRef | None],
    report: ObjectRef,
    appended: Appended,
) -> BatchAudited:
    records, labels, quarantine = refs
    record_ids, record_digests, label_ids, label_digests = outcome.known
    remembered = not job.predictions
    return BatchAudited(
        dataset=job.dataset,
        number=job.number,
        batch=job.batch,
        records=records,
        labels=labels,
        quarantine=quarantine,
        rows=outcome.records.num_rows,
        labelled=outcome.labels.num_rows if outcome.labels is not None else 0,
        duplicates=outcome.settled.duplicates,
        quarantined=_rule_counts(prepared),
        shown=outcome.shown,
        clock_suspect=outcome.clock_suspect,
        data_time=outcome.data_time,
        records_version=appended.records_version,
        labels_version=appended.labels_version,
        digest_first=outcome.digest.first,
        digest_second=outcome.digest.second,
        digest_rows=outcome.digest.rows,
        table_schema=schema_text(outcome.records),
        report=report,
        record_ids=record_ids if remembered else [],
        record_digests=record_digests if remembered else [],
        label_ids=label_ids,
        label_digests=label_digests,
    )


def _rule_counts(prepared: Prepared) -> tuple[RuleCount, ...]:
    return tuple(RuleCount(rule=rule, rows=rows) for rule, rows in prepared.examined.findings.counts())


def _report(job: AuditBatch, outcome: Outcome, prepared: Prepared) -> bytes:
    """The validation report: canonical JSON, no feature values."""
    body: dict[str, Any] = {
        "dataset": job.dataset,
        "number": job.number,
        "batch": job.batch.model_dump(mode="json"),
        "rows": prepared.staged.num_rows,
        "records_accepted": outcome.records.num_rows,
        "labels_accepted": outcome.labels.num_rows if outcome.labels is not None else 0,
        "duplicates": outcome.settled.duplicates,
        "clock_suspect": outcome.clock_suspect,
        "quarantined": {one.rule: one.rows for one in _rule_counts(prepared)},
        "missing": {name: outcome.records.column(name).null_count for name in outcome.records.column_names},
        "suite": job.record.model_dump(mode="json"),
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


RUNS = (
    runs(AuditBatch, ValidationJobs.audit_batch, failed=ValidationHandlers.on_audit_failed),
    *MODEL_RUNS,
)
