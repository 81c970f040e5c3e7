"""Judging models on real gate rows: a real lake and store, real ONNX, the process that runs it."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

import pytest
from flower_lake import NAMESPACE, ROWS, START, flowers
from sklearn.linear_model import LogisticRegression

from ctloop import columns, onnx_export
from ctloop.events.envelope import Envelope, Event
from ctloop.events.manifest import ConditionSpec, FieldSpec, Manifest, RecordSpec
from ctloop.events.training import ModelTrained
from ctloop.events.values import DatasetVersion, ObjectRef, Parity, Signature, Verdict, Window
from ctloop.platform.jobs import Lease
from ctloop.platform.settings import S3Settings
from ctloop.platform.storage import Lake, Objects, Roles
from ctloop.policy.conditions import compile_condition
from ctloop_validation.model_job_types import EvaluateModel, ModelEvaluated
from ctloop_validation.model_jobs import ChampionUnusable, ModelJobs
from ctloop_validation.model_process import ModelProcess
from ctloop_validation.model_store import Champion

pytestmark = pytest.mark.stack
REF = ObjectRef(uri="s3://ctloop/x", sha256="0" * 64, bytes=1)
RECORD = RecordSpec(
    dataset="judged-flower", id="flower", time="seen", label=FieldSpec(name="tall", kind="boolean"),
    fields=(
        FieldSpec(name="flower", kind="string"),
        FieldSpec(name="seen", kind="time"),
        FieldSpec(name="width", kind="number"),
    ),
)  # fmt: skip
MANIFEST = Manifest(
    model="flowers", task="classification", record=RECORD, metric="log_loss", report=("auc",), module="m",
    function="f", bundle=REF, python="3.11",
)  # fmt: skip
CLASSES = ("false", "true")
CUT = 400
"""Rows learned from; the rest is the gate's."""


def at(row: int) -> Any:
    return START + timedelta(hours=row)


class Judge(ModelJobs):
    """The model half of the jobs, with a lake of flowers and models made from it."""

    def __init__(self, objects: Objects, lake: Lake, process: ModelProcess, version: DatasetVersion) -> None:
        self.objects, self.lake, self.model_process, self.version = objects, lake, process, version
        records, labels = flowers()
        self.rows = records.append_column("tall", labels.column("value"))

    async def model(self, estimator: Any) -> tuple[ObjectRef, Signature, Parity]:
        """Fitted on the rows before the gate's, exported and stored."""
        learned = self.rows.slice(0, CUT)
        fitted = estimator.fit(columns.to_frame(learned, RECORD), columns.target(learned, RECORD, CLASSES))
        exported = onnx_export.export(fitted, RECORD, learned, CLASSES)
        ref = await self.objects.put_content("models", exported.body, format="onnx")
        return ref, exported.signature, exported.parity

    async def candidate(self, estimator: Any, onnx: ObjectRef | None = None) -> ModelTrained:
        made, signature, parity = await self.model(estimator)
        return ModelTrained(
            model="flowers", run_id=uuid5(NAMESPACE, "c"), decision_id=uuid5(NAMESPACE, "d"), signature=signature,
            pipeline_digest=MANIFEST.digest, onnx=onnx or made, golden=REF, parity=parity, metrics=(), capsule=REF,
            dataset=RECORD.dataset, dataset_version=self.version, data_time=at(ROWS + 48), user_seconds=0,
            training_window=Window(start=START, end=at(CUT)), gate_window=Window(start=at(CUT), end=at(ROWS)),
        )  # fmt: skip

    async def champion(self, estimator: Any, learned_until: int = CUT) -> Champion:
        onnx, signature, _ = await self.model(estimator)
        return Champion(
            epoch=3, version=2, run_id=uuid5(NAMESPACE, "champion"), onnx=onnx, signature=signature,
            training_window=Window(start=START, end=at(learned_until)), dataset_version=self.version,
        )  # fmt: skip

    async def judge(
        self, trained: ModelTrained, champion: Champion | None = None, manifest: Manifest = MANIFEST
    ) -> ModelEvaluated:
        return await self.evaluate_model(EvaluateModel(trained=trained, champion=champion, manifest=manifest), lease())


def lease() -> Lease:
    """One nobody takes away."""

    async def keep(value: Mapping[str, Any]) -> None: ...
    async def speak(events: Sequence[Event]) -> None: ...

    cause = Envelope(id=UUID(int=1), source="/test", type="t", subject="flowers", time=START)
    return Lease(UUID(int=2), 1, 1, cause, {}, keep, speak)


def good(C: float = 1.0) -> Any:
    return LogisticRegression(C=C)


def knows_nothing() -> Any:
    return LogisticRegression(C=1e-12)


@pytest.fixture
async def judge(s3: Any) -> AsyncIterator[Judge]:
    settings = S3Settings(endpoint=s3.endpoint, keys_file=s3.keys_file, bucket=s3.bucket)
    async with Objects(settings) as objects, ModelProcess(replay_seconds=30.0) as process:
        lake, (records, labels) = Lake(settings), flowers()
        roles = Roles(id="flower", time="seen", label="tall")
        done = lake.append(RECORD.dataset, records, labels, 1, roles=roles)
        version = DatasetVersion(
            n=1, digest="d", records_version=done.records_version, labels_version=done.labels_version
        )
        yield Judge(objects, lake, process, version)


def failed(done: ModelEvaluated) -> list[str]:
    return [gate.name for gate in done.gates if not gate.passed]


async def test_a_good_first_model_passes(judge: Judge) -> None:
    """It beats a constant; every value lies in the evidence, with the rows it comes from."""
    done = await judge.judge(await judge.candidate(good()))
    assert done.verdict is Verdict.PASSED and done.champion_epoch == 0, done.gates
    assert {"log_loss", "auc"} <= {one.name for one in done.metrics} and done.champion_metrics == ()
    body = json.loads(await judge.objects.get(done.evidence))
    assert body["gate_rows"] == ROWS - CUT and body["record_ids"][0] == f"f{CUT}"
    assert body["report"]["verdict"] == "passed"


async def test_a_model_that_knows_nothing_is_refused(judge: Judge) -> None:
    """Worse than how often each label comes."""
    done = await judge.judge(await judge.candidate(knows_nothing()))
    assert done.verdict is Verdict.FAILED and "log_loss beats a constant" in failed(done)


async def test_candidate_and_champion_see_the_same_rows(judge: Judge) -> None:
    """The same model on both sides has the same metrics, and a worse one is refused with both values."""
    champion = await judge.champion(good())
    same = await judge.judge(await judge.candidate(good()), champion)
    assert same.metrics == same.champion_metrics and same.champion_epoch == 3
    worse = await judge.judge(await judge.candidate(good(C=1e-4)), champion)
    gate = next(one for one in worse.gates if one.name == "log_loss not worse")
    assert not gate.passed and gate.candidate and gate.champion and gate.candidate > gate.champion


async def test_a_champion_is_judged_on_columns_the_file_no_longer_has(judge: Judge) -> None:
    """A feature was removed from the record class: the lake still holds what the champion answers with."""
    champion, candidate = await judge.champion(good()), await judge.candidate(good(C=1e-4))
    before = await judge.judge(candidate, champion)
    gone = next(one.name for one in RECORD.fields if one.kind == "number")
    record = RECORD.model_copy(update={"fields": tuple(one for one in RECORD.fields if one.name != gone)})
    after = await judge.judge(candidate, champion, MANIFEST.model_copy(update={"record": record}))
    assert after.champion_metrics == before.champion_metrics


async def test_rows_the_champion_learned_from_are_dropped(judge: Judge) -> None:
    """What is left is judged; when nothing is left, that is the refusal."""
    candidate = await judge.candidate(good())
    some = await judge.judge(candidate, await judge.champion(good(), learned_until=ROWS - 50))
    assert json.loads(await judge.objects.get(some.evidence))["gate_rows"] == 50
    none = await judge.judge(candidate, await judge.champion(good(), learned_until=ROWS))
    assert none.verdict is Verdict.FAILED and "gate rows >= 20" in failed(none)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("p99_ms <= 10000", Verdict.PASSED), ("p99_ms <= 0", Verdict.FAILED), ("auc >= 0.999", Verdict.FAILED)],
)
async def test_gates_of_the_user(judge: Judge, text: str, verdict: Verdict) -> None:
    """Beside the default ones, with the tree's values."""
    tree = compile_condition(text, {"auc", "p99_ms"}).to_json()
    manifest = MANIFEST.model_copy(update={"gates": (ConditionSpec(text=text, tree=tree),)})
    done = await judge.judge(await judge.candidate(good()), manifest=manifest)
    gate = next(one for one in done.gates if one.name == text)
    assert done.verdict is verdict and gate.passed is (verdict is Verdict.PASSED) and gate.tree is not None


def not_a_model() -> bytes:
    return b"\x00 no model"


def wants_a_file() -> bytes:
    """Weights beside the model: refused, bytes are all there is."""
    from onnx import TensorProto, helper

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="../../etc/passwd")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["width", "w"], ["probabilities"])], "g",
        [helper.make_tensor_value_info("width", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 1])], [weight],
    )  # fmt: skip
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


@pytest.mark.parametrize("body", [not_a_model, wants_a_file])
async def test_bytes_that_do_not_run_are_refused(judge: Judge, body: Callable[[], bytes]) -> None:
    """As a gate with the reason; the next model is judged as always."""
    ref = await judge.objects.put_content("models", body(), format="onnx")
    done = await judge.judge(await judge.candidate(good(), onnx=ref))
    assert done.verdict is Verdict.FAILED and failed(done) == ["runs"]
    assert (await judge.judge(await judge.candidate(good()))).verdict is Verdict.PASSED


async def test_a_wrong_parity_is_refused(judge: Judge) -> None:
    """What training measured is a gate too."""
    candidate = await judge.candidate(good())
    wrong = candidate.model_copy(update={"parity": Parity(rows=100, largest_difference=0.5, flipped=20)})
    done = await judge.judge(wrong)
    assert "ONNX = estimator" in failed(done)


async def test_a_champion_that_does_not_run_is_no_reason_to_try_for_hours(judge: Judge) -> None:
    """Without its outputs there is no verdict but no; a person may promote by force."""
    champion = await judge.champion(good())
    broken = champion.model_copy(
        update={"onnx": await judge.objects.put_content("models", not_a_model(), format="onnx")}
    )
    with pytest.raises(ChampionUnusable, match="champion 2 could not be replayed"):
        await judge.judge(await judge.candidate(good()), broken)


def test_a_store_that_is_away_refuses_no_model() -> None:
    """Attempts outlast an outage of half an hour (the runner doubles 0.2 s up to a minute, less up to half by chance)."""
    waits = [min(0.2 * 2 ** min(attempt, 9), 60.0) / 2 for attempt in range(1, EvaluateModel.max_attempts)]
    assert sum(waits) > 30 * 60
