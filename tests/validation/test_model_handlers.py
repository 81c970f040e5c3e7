"""What validation does when models are trained and champions move, on a real PostgreSQL."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import pytest

from ctloop.events.envelope import Envelope
from ctloop.events.errors import ModelNotYetKnown
from ctloop.events.manifest import FieldSpec, Manifest, RecordSpec
from ctloop.events.model import ModelPromoted, ModelRolledBack, ModelValidated
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.training import ModelTrained
from ctloop.events.values import DatasetVersion, GateResult, ObjectRef, Parity, Signature, TrafficShare, Verdict, Window
from ctloop.platform.delivery.work import Work
from ctloop.platform.jobs import JobFailed, JobQueue
from ctloop.platform.migrate import make_schema
from ctloop.platform.pipelines import PipelineHandlers
from ctloop_validation.model_handlers import ModelHandlers
from ctloop_validation.model_job_types import EvaluateModel, ModelEvaluated
from ctloop_validation.model_store import ModelStore

NAMESPACE = UUID("d0a94f6c-6f0b-4d1d-8f7e-7d2f1f2f9a11")
START = datetime(2026, 1, 1, tzinfo=UTC)
REF = ObjectRef(uri="s3://ctloop/x", sha256="0" * 64, bytes=1)
CAPSULE = ObjectRef(uri="s3://ctloop/capsule", sha256="1" * 64, bytes=1)
RECORD = RecordSpec(
    dataset="flower", id="flower", time="seen", label=FieldSpec(name="tall", kind="boolean"),
    fields=(FieldSpec(name="flower", kind="string"), FieldSpec(name="seen", kind="time")),
)  # fmt: skip
MANIFEST = Manifest(
    model="flowers", task="classification", record=RECORD, metric="log_loss", module="m", function="f", bundle=REF,
    python="3.11",
)  # fmt: skip
WINDOW = Window(start=START, end=START + timedelta(days=7), rows=100)
VERSION = DatasetVersion(n=1, digest="d", records_version=1, labels_version=1)
SIGNATURE = Signature(inputs=(), outputs=(), classes=("false", "true"))


def run_id(name: str) -> UUID:
    return uuid5(NAMESPACE, name)


def trained(name: str) -> ModelTrained:
    return ModelTrained(
        model="flowers", run_id=run_id(name), decision_id=run_id(f"decision {name}"), pipeline_digest=MANIFEST.digest,
        onnx=REF, golden=REF, signature=SIGNATURE, parity=Parity(rows=1, largest_difference=0, flipped=0), metrics=(),
        dataset="flower", dataset_version=VERSION, training_window=WINDOW, gate_window=WINDOW, capsule=CAPSULE,
        user_seconds=0.1,
    )  # fmt: skip


def moved(name: str, epoch: int, fact: type[Any] = ModelPromoted) -> Any:
    more = {"reason": "worse"} if fact is ModelRolledBack else {}
    return fact(
        model="flowers", version=epoch, run_id=run_id(name), digest="0" * 64, onnx=REF, golden=REF,
        signature=SIGNATURE, pipeline_digest=MANIFEST.digest, epoch=epoch, dataset="flower", dataset_version=VERSION,
        training_window=WINDOW, metrics=(), traffic=(TrafficShare(version=epoch, percent=100),), data_time=START,
        **more,
    )  # fmt: skip


def evaluated(name: str, epoch: int, verdict: Verdict = Verdict.PASSED) -> ModelEvaluated:
    gate = GateResult(name="log_loss not worse", passed=verdict is Verdict.PASSED)
    return ModelEvaluated(
        trained=trained(name), champion_epoch=epoch, verdict=verdict, gates=(gate,), evidence=REF, replay_seconds=0.2
    )


class Desk(ModelHandlers):
    """The model half of the handlers, and units of work whose causes have names."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.models = ModelStore()

    def work(self, cause: str) -> Work:
        envelope = Envelope(
            id=run_id(cause), source="/test", type="t", subject="flowers", time=START, loop_id=run_id("loop")
        )
        return Work(self.connection, envelope, START, JobQueue(self.connection, envelope, "ctloop_validation_jobs"))

    async def challenges(self) -> list[tuple[UUID, int]]:
        """Open evaluations: (run, the champion's epoch)."""
        rows = await self.connection.fetch(
            "SELECT arguments, cause FROM job WHERE kind = 'evaluate-model' AND state = 'QUEUED' ORDER BY seq"
        )
        assert all(Envelope.model_validate_json(row["cause"]).loop_id == run_id("loop") for row in rows)
        jobs = [EvaluateModel.model_validate_json(row["arguments"]) for row in rows]
        return [(job.trained.run_id, job.champion.epoch if job.champion else 0) for job in jobs]

    async def finish(self, done: ModelEvaluated, cause: str) -> tuple[Any, ...]:
        """The end of a job, as the runner does it."""
        await self.connection.execute("UPDATE job SET state = 'DONE' WHERE kind = 'evaluate-model'")
        return await self.on_model_evaluated(done, self.work(cause))


@pytest.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    """In a transaction that is rolled back."""
    connection = await asyncpg.connect(database)
    await make_schema(connection, "validation", None)
    await connection.execute("SET search_path = validation")
    transaction = connection.transaction()
    await transaction.start()
    made = Desk(connection)
    release = PipelineReleased(model="flowers", pipeline_version=1, digest=MANIFEST.digest, manifest=MANIFEST)
    await PipelineHandlers().on_pipeline_released(release, made.work("release"))
    yield made
    await transaction.rollback()
    await connection.close()


async def test_the_first_model_is_judged_without_a_champion(desk: Desk) -> None:
    """Epoch 0 says that there was none."""
    assert await desk.on_model_trained(trained("a"), desk.work("trained")) == ()
    assert await desk.challenges() == [(run_id("a"), 0)]


async def test_a_verdict_is_said_with_both_sides_and_its_epoch(desk: Desk) -> None:
    """All values travel in the fact."""
    await desk.on_model_trained(trained("a"), desk.work("trained"))
    (fact,) = await desk.finish(evaluated("a", 0), "end")
    assert isinstance(fact, ModelValidated) and fact.verdict is Verdict.PASSED and fact.champion_epoch == 0
    assert fact.gates[0].passed and fact.replay_seconds == 0.2


async def test_a_later_model_challenges_the_champion(desk: Desk) -> None:
    """The one of the highest epoch, however late a lower one comes."""
    await desk.on_model_promoted(moved("b", 2), desk.work("promoted 2"))
    await desk.on_model_promoted(moved("a", 1), desk.work("promoted 1"))
    await desk.on_model_trained(trained("c"), desk.work("trained"))
    assert await desk.challenges() == [(run_id("c"), 2)]


async def test_a_champion_that_moves_while_a_candidate_is_judged(desk: Desk) -> None:
    """The stale verdict is not said; the candidate challenges the new one."""
    await desk.on_model_promoted(moved("a", 1), desk.work("promoted 1"))
    await desk.on_model_trained(trained("c"), desk.work("trained"))
    await desk.on_model_promoted(moved("b", 2), desk.work("promoted 2"))
    assert await desk.finish(evaluated("c", 1), "end") == ()
    assert await desk.challenges() == [(run_id("c"), 2)]
    (fact,) = await desk.finish(evaluated("c", 2), "end 2")
    assert fact.champion_epoch == 2


@pytest.mark.parametrize("fact", [ModelPromoted, ModelRolledBack])
async def test_undecided_candidates_challenge_again_when_the_champion_moves(desk: Desk, fact: type[Any]) -> None:
    """Those that passed and were not promoted; the promoted one itself and refused ones are decided."""
    await desk.on_model_promoted(moved("a", 1), desk.work("promoted 1"))
    for name, verdict in (("b", Verdict.PASSED), ("c", Verdict.PASSED), ("d", Verdict.FAILED)):
        await desk.on_model_trained(trained(name), desk.work(f"trained {name}"))
        await desk.finish(evaluated(name, 1, verdict), f"end {name}")
    handler = desk.on_model_promoted if fact is ModelPromoted else desk.on_model_rolled_back
    await handler(moved("b", 2, fact), desk.work("moved"))
    assert await desk.challenges() == [(run_id("c"), 2)]


async def test_of_many_that_wait_for_a_person_the_newest_challenges_again(desk: Desk) -> None:
    """Proposals nobody promoted are superseded: a champion that moves costs one evaluation, however many wait."""
    await desk.on_model_promoted(moved("a", 1), desk.work("promoted 1"))
    for name in ("b", "c", "d"):
        await desk.on_model_trained(trained(name), desk.work(f"trained {name}"))
        await desk.connection.execute(
            "UPDATE candidate SET trained_at = clock_timestamp() WHERE run_id = $1", run_id(name)
        )
        await desk.finish(evaluated(name, 1), f"end {name}")
    await desk.on_model_promoted(moved("x", 2), desk.work("moved"))
    assert await desk.challenges() == [(run_id("d"), 2)]


async def test_the_same_move_again_challenges_once(desk: Desk) -> None:
    """A redelivery changes nothing."""
    await desk.on_model_promoted(moved("a", 1), desk.work("promoted 1"))
    await desk.on_model_trained(trained("c"), desk.work("trained"))
    await desk.finish(evaluated("c", 1), "end")
    for cause in ("moved", "moved"):
        await desk.on_model_promoted(moved("b", 2), desk.work(cause))
    assert await desk.challenges() == [(run_id("c"), 2)]


async def test_an_evaluation_that_never_ends_well_is_a_refusal(desk: Desk) -> None:
    """Without evidence there is no promotion; why is a gate, the capsule stands in for the evidence."""
    await desk.on_model_trained(trained("a"), desk.work("trained"))
    job = EvaluateModel(trained=trained("a"), champion=None, manifest=MANIFEST)
    lost = JobFailed(job, "exhausted", "Traceback\nTransientError: the store does not answer", 6)
    (fact,) = await desk.on_evaluation_failed(lost, desk.work("end"))
    assert isinstance(fact, ModelValidated) and fact.verdict is Verdict.FAILED
    assert "the store does not answer" in fact.gates[0].note and fact.evidence == CAPSULE


async def test_a_model_of_an_unknown_pipeline_waits(desk: Desk) -> None:
    """Its manifest says what the gates are."""
    unknown = trained("a").model_copy(update={"pipeline_digest": "f" * 64})
    with pytest.raises(ModelNotYetKnown):
        await desk.on_model_trained(unknown, desk.work("trained"))
