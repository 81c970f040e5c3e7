"""Runs end to end: lake, Ray task, the user's process, ONNX, objects; and how they end when something is wrong."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from flower_lake import GOOD, Compute, flowers_file, json_of

from ctloop import onnx_rows
from ctloop.events.manifest import Manifest
from ctloop.platform.storage import Lake
from ctloop_training.ray_runner import RayRunner
from ctloop_training.run_spec import Failed, Progress, RunOrder, Trained

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture
async def runner(compute: Compute, folder: Path) -> AsyncIterator[RayRunner]:
    async with RayRunner(compute.ray, folder) as opened:
        yield opened


async def followed(runner: RayRunner, order: RunOrder) -> tuple[Trained | Failed, list[Progress]]:
    """Run to the end, keeping what is said on the way."""
    progress: list[Progress] = []

    async def keep(one: Progress) -> None:
        progress.append(one)

    return await runner.run(order, keep), progress


async def trained(runner: RayRunner, order: RunOrder) -> tuple[Trained, list[Progress]]:
    ended, progress = await followed(runner, order)
    assert isinstance(ended, Trained), ended
    return ended, progress


async def test_a_run_ends_with_a_model_that_answers_like_the_estimator(compute: Compute, runner: RayRunner) -> None:
    """Three trials, a final fit, ONNX with parity, a capsule; the gate's rows were not learned from."""
    manifest = compute.applied(flowers_file())
    order = compute.order(manifest, "good")
    ended, progress = await trained(runner, order)
    assert [one.trial for one in progress if one.finished] == [1, 2, 3]
    assert ended.parity.largest_difference < 1e-5 and ended.parity.flipped == 0
    assert ended.training_window.end <= ended.gate_window.start
    assert ended.training_window.rows + ended.gate_window.rows == 600
    assert {one.name for one in ended.metrics} == {"log_loss", "auc"} and ended.metrics[0].value < 0.5
    capsule = json_of(compute.objects.get(ended.capsule))
    assert capsule["onnx_sha256"] == ended.onnx.sha256 and capsule["params"] == dict(ended.params)
    assert ended.onnx.uri.endswith("attempts/good/1/model.onnx")


async def test_the_model_is_worth_something_on_the_gate_rows(compute: Compute, runner: RayRunner) -> None:
    """The bytes in the store answer raw rows of the lake, better than chance."""
    manifest = compute.applied(flowers_file(trials=1))
    ended, _ = await trained(runner, compute.order(manifest, "worth"))
    window = ended.gate_window
    rows = Lake(compute.s3).read("flower", compute.version, since=window.start, until=window.end)
    session = onnx_rows.open_session(compute.objects.get(ended.onnx))
    label = onnx_rows.run(session, ended.signature, rows).label
    assert rows.num_rows == window.rows
    assert np.mean(np.asarray(label).reshape(-1) == rows.column("tall").to_numpy(zero_copy_only=False)) > 0.7


async def test_the_same_order_gives_the_same_bytes(compute: Compute, runner: RayRunner) -> None:
    """Data, code, parameters and seeds decide; the attempt and the warm process do not."""
    manifest = compute.applied(flowers_file(trials=2))
    first, _ = await trained(runner, compute.order(manifest, "same-1"))
    second, _ = await trained(runner, compute.order(manifest, "same-2"))
    assert first.onnx.sha256 == second.onnx.sha256 and first.params == second.params


async def test_trials_of_an_earlier_fence_are_kept(compute: Compute, runner: RayRunner) -> None:
    """A restarted run tries only what is left, and ends as the undisturbed one."""
    manifest = compute.applied(flowers_file(trials=4))
    whole, progress = await trained(runner, compute.order(manifest, "whole"))
    done = tuple(one.finished for one in progress if one.finished)
    order = compute.order(manifest, "resumed").model_copy(update={"trials": done[:3]})
    resumed, progress = await trained(runner, order)
    assert [one.finished.number for one in progress if one.finished] == [3]
    assert resumed.params == whole.params and resumed.onnx.sha256 == whole.onnx.sha256


WRONG_ONNX = """    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    columns = make_column_transformer((OrdinalEncoder(), ["colour"]), remainder="passthrough")
    trees = HistGradientBoostingClassifier(categorical_features=[0], min_samples_leaf=2)
    return make_pipeline(columns, trees).fit(X, y)
"""
LYING = """    from sklearn.linear_model import LogisticRegression
    class Lying(LogisticRegression):
        def predict_proba(self, X):
            return super().predict_proba(X)[:, ::-1]
    return Lying(C=C).fit(X[["width"]].fillna(0), y)
"""
NAN = """    class Nothing:
        classes_ = [0, 1]
        def fit(self, X, y): return self
        def predict(self, X): return [0] * len(X)
        def predict_proba(self, X): return [[float("nan")] * 2] * len(X)
    return Nothing()
"""


@pytest.mark.parametrize(
    ("body", "reasons"),
    [
        ("    print('before the end')\n    raise ValueError('no flowers')\n", {"raised"}),
        ("    return 'a model'\n", {"wrong-type"}),
        ("    while True: pass\n", {"time-limit"}),
        ("    import os\n    os.abort()\n", {"crashed"}),
        (NAN, {"wrong-type", "export-failed"}),
        (LYING, {"parity", "export-failed", "raised", "wrong-type"}),
    ],
    ids=["raises", "wrong-type", "never-ends", "crashes", "not-finite", "lying-onnx"],
)
async def test_a_bad_model_file_ends_with_its_reason(
    compute: Compute, runner: RayRunner, body: str, reasons: set[str]
) -> None:
    """It never hangs the run, and the last lines it wrote come with it."""
    manifest = compute.applied(flowers_file(body, time_limit=4, trials=2))
    ended, _ = await followed(runner, compute.order(manifest, f"bad-{hash(body)}"))
    assert isinstance(ended, Failed) and ended.reason in reasons, ended
    if "before the end" in body:
        assert "before the end" in ended.log_tail and any("no flowers" in line for line in ended.log_tail)


async def test_parameters_that_fail_lose_the_search_and_nothing_else(compute: Compute, runner: RayRunner) -> None:
    """Once one set has succeeded, a failing one is a bad trial."""
    body = "    if C != 1.0:\n        raise ValueError('only the middle works')\n" + GOOD
    ended, progress = await trained(runner, compute.order(compute.applied(flowers_file(body)), "partly"))
    assert dict(ended.params) == {"C": 1.0}
    assert [one.finished.value is None for one in progress if one.finished] == [False, True, True]


async def test_too_few_rows_are_no_data(compute: Compute, runner: RayRunner) -> None:
    """Below 100 labelled rows nothing is trained."""
    manifest: Manifest = compute.applied(flowers_file())
    order = compute.order(manifest, "few")
    spec = order.spec.model_copy(update={"max_rows": 99})
    ended, _ = await followed(runner, order.model_copy(update={"spec": spec}))
    assert isinstance(ended, Failed) and ended.reason == "no-data"
