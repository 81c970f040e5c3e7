"""Open Inference Protocol v2: requests and answers as the specification writes them."""

from collections.abc import Callable
from typing import Any

import pytest

INFER = "/v2/models/weather-delays/infer"


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "shape": shape or [len(data), 1], "datatype": datatype, "data": data}


def request(rows: int = 1) -> dict[str, Any]:
    return {
        "id": "42",
        "inputs": [
            tensor("temp", "FP32", [12.5] * rows),
            tensor("windy", "BOOL", [True] * rows),
            tensor("carrier", "BYTES", ["UA"] * rows),
            tensor("departs", "INT64", [1_368_513_000_000_000] * rows),
        ],
    }


async def test_server_and_model_describe_themselves(replica: Any) -> None:
    """Server metadata, health, and the model's inputs and outputs from its signature."""
    get = replica.client.get
    assert (await get("/v2")).json()["name"] == "ctloop"
    assert (await get("/v2/health/live")).json() == {"live": True}
    assert (await get("/v2/health/ready")).json() == {"ready": True}
    assert (await get("/v2/models/weather-delays/ready")).json()["ready"] is True
    model = (await get("/v2/models/weather-delays")).json()
    assert model == (await get("/v2/models/weather-delays/versions/1")).json()
    assert (model["name"], model["versions"]) == ("weather-delays", ["1"])
    assert [(one["name"], one["datatype"], one["shape"]) for one in model["inputs"]] == [
        ("temp", "FP32", [-1, 1]),
        ("windy", "FP32", [-1, 1]),
        ("carrier", "BYTES", [-1, 1]),
        ("departs", "INT64", [-1, 1]),
    ]
    assert [one["shape"] for one in model["outputs"]] == [[-1, 1], [-1, 2]]


@pytest.mark.parametrize("path", [INFER, "/v2/models/weather-delays/versions/1/infer"])
async def test_inference_answers_tensors(replica: Any, path: str, says: Callable[..., float]) -> None:
    """Label and probabilities come back with the request's id and the version that answered."""
    answer = await replica.client.post(path, json=request(3))
    assert answer.status_code == 200
    body = answer.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("weather-delays", "1", "42")
    assert body["parameters"]["epoch"] == 1
    assert len(body["parameters"]["prediction_ids"].split(",")) == 3
    label, probabilities = body["outputs"]
    assert (label["name"], label["datatype"], label["shape"]) == ("label", "BYTES", [3, 1])
    assert label["data"] == ["true"] * 3
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [3, 2])
    assert probabilities["data"][1::2] == pytest.approx([says(0.1, 12.5, 1, 1)] * 3, abs=1e-6)


async def test_the_record_id_is_a_parameter(replica: Any) -> None:
    """One row names its record by the parameter record_id, many rows by an input named as the id column."""
    await replica.client.post(INFER, json=request() | {"parameters": {"record_id": "UA7"}})
    many = request(2)
    many["inputs"].append(tensor("flight", "BYTES", ["UA8", "UA9"]))
    await replica.client.post(INFER, json=many)
    captured = [id for one in replica.capture._ring for id in one.request.record_ids]
    assert captured == ["UA7", "UA8", "UA9"]


async def test_asked_outputs_only(replica: Any) -> None:
    """A request may name the outputs it wants."""
    body = (await replica.client.post(INFER, json=request() | {"outputs": [{"name": "label"}]})).json()
    assert [one["name"] for one in body["outputs"]] == ["label"]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([tensor("wind", "FP32", [1.0])], "unknown column 'wind'"),
        ([tensor("temp", "BYTES", ["1"])], "temp is FP32"),
        ([tensor("temp", "FP32", [1.0, 2.0], [1, 1])], "expected [N] or [N, 1]"),
        ([tensor("temp", "FP32", [1.0]), tensor("carrier", "BYTES", ["UA", "AA"])], "carrier has 2 rows"),
        ([tensor("temp", "FP32", [1.0]), tensor("temp", "FP32", [1.0])], "comes twice"),
        ([tensor("temp", "FP32", ["warm"])], "expected a number"),
        ([tensor("temp", "FP32", [1.0])], "carrier may not be null or absent"),
        ([tensor("temp", "FP32", [])], "at least one row"),
        ([tensor("carrier", "BYTES", ["UA"]), tensor("departs", "INT64", [2**62])], "microseconds"),
        ([], "expected: temp"),
        (None, "list of tensors"),
        ([7], "expected a tensor"),
    ],
)
async def test_a_bad_tensor_is_refused(replica: Any, inputs: Any, expected: str) -> None:
    """The error object says what was expected."""
    answer = await replica.client.post(INFER, json={"inputs": inputs})
    assert answer.status_code == 400
    assert expected in answer.json()["error"]


async def test_only_the_champion_answers(replica: Any) -> None:
    """Another version and another model are 404, in the protocol's own form."""
    await replica.deploy(2, 2)
    old = await replica.client.post("/v2/models/weather-delays/versions/1/infer", json=request())
    assert (old.status_code, "version 2 answers" in old.json()["error"]) == (404, True)
    assert "error" in (await replica.client.get("/v2/models/nothing")).json()
    binary = {"inference-header-content-length": "10"}
    assert (await replica.client.post(INFER, content=b"x", headers=binary)).status_code == 400
