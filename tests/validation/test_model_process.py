"""Models nobody has judged yet run in a process of their own: whatever they do, the next one gets an answer."""

from collections.abc import AsyncIterator

import numpy as np
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from ctloop.events.values import Column, Signature
from ctloop_validation.model_process import ModelMisbehaved, ModelProcess

SIGNATURE = Signature(
    inputs=(Column(name="width", kind="number"),), outputs=(Column(name="value", kind="number"),), classes=()
)
ROWS = pa.table({"width": pa.array([1.0, 2.0, None, 4.0])})
FLOATS = TensorProto.FLOAT


def model(nodes: list[object], initializers: list[object] | None = None) -> bytes:
    """A graph from width [N, 1] to value [N, 1]."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("width", FLOATS, [None, 1])],
        [helper.make_tensor_value_info("value", FLOATS, [None, 1])],
        initializer=initializers or [],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def doubled() -> bytes:
    """Missing is 0, then times two."""
    zero, two = (helper.make_tensor(name, FLOATS, [1], [value]) for name, value in (("zero", 0.0), ("two", 2.0)))
    nodes = [
        helper.make_node("IsNaN", ["width"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "width"], ["there"]),
        helper.make_node("Mul", ["there", "two"], ["value"]),
    ]
    return model(nodes, [zero, two])


def huge() -> bytes:
    """A small file that asks for 400 GB."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [10**6, 10**5])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["value"], keepdims=1),
    ]
    return model(nodes, [shape])


def endless() -> bytes:
    """A loop of 10^15 steps."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes_on"]),
            helper.make_node("Sin", ["before"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", FLOATS, [None, 1]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", FLOATS, [None, 1]),
        ],
    )
    initializers = [
        helper.make_tensor("steps", TensorProto.INT64, [], [10**15]),
        helper.make_tensor("go", TensorProto.BOOL, [], [True]),
    ]
    return model([helper.make_node("Loop", ["steps", "go", "width"], ["value"], body=body)], initializers)


@pytest.fixture
async def process() -> AsyncIterator[ModelProcess]:
    async with ModelProcess(replay_seconds=10.0) as opened:
        yield opened


async def test_a_model_is_replayed_on_rows(process: ModelProcess) -> None:
    """Outputs come row by row, a missing value as the model sees it; latency is measured row by row."""
    found = await process.replay(doubled(), SIGNATURE, ROWS)
    np.testing.assert_allclose(found, [[2.0], [4.0], [0.0], [8.0]])
    assert 0.0 < await process.p99_ms(doubled(), SIGNATURE, ROWS) < 1000.0


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "Error|Invalid|ModelRequiresCompilation|Fail"),
        (b"not a model at all", "Error|Invalid|Fail"),
        (huge(), "alloc|ended the process|Fail|Exception"),
        (endless(), "did not answer within"),
    ],
    ids=["empty", "no-model", "asks-for-400-GB", "never-ends"],
)
async def test_a_bad_model_ends_nothing_but_itself(process: ModelProcess, body: bytes, why: str) -> None:
    """Not ONNX, too much memory, too long: each is said, and the next model is judged as if nothing had been."""
    with pytest.raises(ModelMisbehaved, match=why):
        await process.replay(body, SIGNATURE, ROWS)
    assert (await process.replay(doubled(), SIGNATURE, ROWS)).shape == (4, 1)


async def test_answers_that_are_not_finite_are_refused(process: ModelProcess) -> None:
    """NaN never reaches a metric."""
    passthrough = model([helper.make_node("Identity", ["width"], ["value"])])
    with pytest.raises(ModelMisbehaved, match="finite"):
        await process.replay(passthrough, SIGNATURE, ROWS)


async def test_a_model_with_another_input_is_refused(process: ModelProcess) -> None:
    """Inputs are named after the columns; a model that wants another one does not run."""
    other = Signature(inputs=(Column(name="height", kind="number"),), outputs=SIGNATURE.outputs, classes=())
    with pytest.raises(ModelMisbehaved):
        await process.replay(doubled(), other, ROWS)
