"""The job that judges a model: both sides replayed in a process of their own on the same gate rows, then the gates."""

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from prometheus_client import Histogram

from ctloop.events.errors import RejectedEvent
from ctloop.events.manifest import RecordSpec
from ctloop.events.model import ModelValidated
from ctloop.events.training import ModelTrained
from ctloop.events.values import GateResult, ObjectRef, Verdict
from ctloop.platform.jobs import Lease, runs
from ctloop.platform.spans import span
from ctloop.platform.storage import ARRIVED, Lake, Objects
from ctloop.policy.gates import GateReport
from ctloop_validation.domain.model_challenge import Sides, challenge, report_json, unseen
from ctloop_validation.model_handlers import ModelHandlers, outcome_of
from ctloop_validation.model_job_types import EvaluateModel, ModelEvaluated
from ctloop_validation.model_process import Matrix, ModelMisbehaved, ModelProcess
from ctloop_validation.model_store import Champion

VALIDATION_SECONDS = Histogram(
    "ctloop_validation_duration_seconds", "One audit of a batch (data) or one judgement of a candidate (model), in seconds.",
    ["stage"], buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300),
)  # fmt: skip
MODEL_BYTES = 256 << 20
TICK = timedelta(microseconds=1)
CHAMPION_TRIES = 2


class ChampionUnusable(RejectedEvent):
    """The champion's bytes do not run any more, not even in a fresh process."""


@dataclass(frozen=True)
class Replayed:
    """What both sides answered on the gate rows."""

    candidate: Matrix
    champion: Matrix | None
    p99_ms: float | None


class ModelJobs:
    """Mixed into ValidationJobs; needs the attributes below."""

    objects: Objects
    lake: Lake
    model_process: ModelProcess

    async def evaluate_model(self, job: EvaluateModel, lease: Lease) -> ModelEvaluated:
        """Judge a candidate. A model that misbehaves is refused; only what is ours is tried again.

        Raises:
            TransientError: the store does not answer.
            ChampionUnusable: there is nothing to compare with.
        """
        with VALIDATION_SECONDS.labels("model").time():
            return await self._judge(job, lease)

    async def _judge(self, job: EvaluateModel, lease: Lease) -> ModelEvaluated:
        started = time.perf_counter()
        with span("read gate rows"):
            rows = await asyncio.to_thread(self._gate_rows, job)
        try:
            replayed = await self._replay(job, rows)
        except ModelMisbehaved as error:
            return await self._refused(job, f"the ONNX form does not run: {error}", time.perf_counter() - started)
        seconds = time.perf_counter() - started
        lease.check()
        report = challenged(
            Sides(
                manifest=job.manifest,
                trained=job.trained,
                rows=rows,
                candidate=replayed.candidate,
                candidate_classes=job.trained.signature.classes,
                champion=replayed.champion,
                champion_classes=job.champion.signature.classes if job.champion else (),
                p99_ms=replayed.p99_ms,
            )
        )
        evidence = await self._evidence(job, report_json(report), rows)
        return ModelEvaluated(
            trained=job.trained,
            champion_epoch=_epoch(job),
            verdict=report.verdict,
            gates=report.gates,
            metrics=report.metrics,
            champion_metrics=report.champion_metrics,
            evidence=evidence,
            replay_seconds=seconds,
        )

    def _gate_rows(self, job: EvaluateModel) -> pa.Table:
        """The labelled rows nobody has learned from, as of the decision's data time. Blocking."""
        trained, record = job.trained, job.manifest.record
        until = trained.data_time
        table = self.lake.read(
            record.dataset,
            trained.dataset_version,
            as_of=until - TICK if until else None,
            columns=gate_columns(record, job.champion),
            since=trained.gate_window.start,
            until=trained.gate_window.end,
        )
        return unseen(table, record.time or ARRIVED, job.champion.training_window.end if job.champion else None)

    async def _replay(self, job: EvaluateModel, rows: pa.Table) -> Replayed:
        """Rows are unlabelled for the models; the label stays with us."""
        record, trained = job.manifest.record, job.trained
        assert record.label is not None, "a model was trained"
        inputs = rows.drop_columns([record.label.name])
        body = await self._onnx(trained.onnx)
        if not rows.num_rows:
            none = np.zeros((0, max(1, len(trained.signature.classes))))
            return Replayed(none, none if job.champion else None, None)
        with span("replay candidate", attributes={"ctloop.rows": rows.num_rows}):
            candidate = await self.model_process.replay(body, trained.signature, inputs)
        with span("measure latency"):
            p99_ms = await self.model_process.p99_ms(body, trained.signature, inputs)
        return Replayed(candidate, await self._champion_outputs(job, inputs), p99_ms)

    async def _champion_outputs(self, job: EvaluateModel, inputs: pa.Table) -> Matrix | None:
        if job.champion is None:
            return None
        why = ""
        for _ in range(CHAMPION_TRIES):
            body = await self._onnx(job.champion.onnx)
            try:
                with span("replay champion", attributes={"ctloop.model.version": job.champion.version}):
                    return await self.model_process.replay(body, job.champion.signature, inputs)
            except ModelMisbehaved as error:
                why = str(error)
        raise ChampionUnusable(f"champion {job.champion.version} could not be replayed: {why}")

    async def _onnx(self, ref: ObjectRef) -> bytes:
        if ref.bytes > MODEL_BYTES:
            raise ModelMisbehaved(f"it has {ref.bytes} bytes, at most {MODEL_BYTES} are loaded")
        return await self.objects.get(ref)

    async def _refused(self, job: EvaluateModel, why: str, seconds: float) -> ModelEvaluated:
        gate = GateResult(name="runs", passed=False, note=why[:500])
        evidence = await self._evidence(job, {"verdict": "failed", "gates": [gate.model_dump(mode="json")]}, None)
        return ModelEvaluated(
            trained=job.trained,
            champion_epoch=_epoch(job),
            verdict=Verdict.FAILED,
            gates=(gate,),
            evidence=evidence,
            replay_seconds=seconds,
        )

    async def _evidence(self, job: EvaluateModel, report: Any, rows: pa.Table | None) -> ObjectRef:
        """Everything the verdict rests on, as JSON."""
        body = evidence(job.trained, _epoch(job), report, job.manifest.record, rows)
        return await self.objects.put_content("evidence", body, format="json")


def challenged(sides: Sides) -> GateReport:
    """The gates, each an event of the span: which, and whether it let the candidate through."""
    with span("judge", attributes={"ctloop.model.name": sides.manifest.model}) as made:
        report = challenge(sides)
        for gate in report.gates:
            made.add_event("gate", {"ctloop.gate.name": gate.name, "ctloop.gate.outcome": outcome_of(gate)})
        made.set_attribute("ctloop.verdict", str(report.verdict))
        return report


def _epoch(job: EvaluateModel) -> int:
    return job.champion.epoch if job.champion else 0


def gate_columns(record: RecordSpec, champion: Champion | None) -> list[str]:
    """What is read of the gate rows: the record, its label, what the champion answers with though the record class no
    longer has it, and the arrival where the record has no time of its own."""
    names = [*(one.name for one in record.fields), *([record.label.name] if record.label else [])]
    names += [one.name for one in champion.signature.inputs if record.field(one.name) is None] if champion else []
    return names if record.time else [*names, ARRIVED]


def evidence(trained: ModelTrained, epoch: int, report: Any, record: RecordSpec, rows: pa.Table | None) -> bytes:
    """Canonical JSON: the verdict's values and the rows they come from."""
    ids = [] if rows is None or record.id not in rows.column_names else rows.column(record.id).to_pylist()
    body = {
        "run_id": str(trained.run_id),
        "onnx_sha256": trained.onnx.sha256,
        "champion_epoch": epoch,
        "dataset": trained.dataset,
        "dataset_version": trained.dataset_version.model_dump(mode="json"),
        "gate_window": trained.gate_window.model_dump(mode="json"),
        "gate_rows": len(ids),
        "record_ids": [str(one) for one in ids],
        "report": report,
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


MODEL_RUNS = (
    runs(EvaluateModel, ModelJobs.evaluate_model, failed=ModelHandlers.on_evaluation_failed, says=(ModelValidated,)),
)
