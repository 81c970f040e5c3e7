"""Rows JSON: what a person with curl sends and gets."""

from collections.abc import Callable
from typing import Any

import pytest

PREDICT = "/v1/models/weather-delays/predict"


async def test_one_row_gets_one_answer(replica: Any, row: dict[str, Any], says: Callable[..., float]) -> None:
    """A bare row is answered flat, with model, version, digest, epoch and prediction id."""
    answer = await replica.client.post(PREDICT, json=row)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["model"], body["version"], body["epoch"]) == ("weather-delays", 1, 1)
    assert body["digest"] == replica.deployments.current["weather-delays"].pointer.digest
    assert body["id"] == "UA1"
    assert body["prediction"] is True
    assert len(body["prediction_id"]) == 36
    assert body["probabilities"]["true"] == pytest.approx(says(0.1, 12.5, 1, 1), abs=1e-6)


async def test_a_list_is_answered_in_its_order(replica: Any, row: dict[str, Any], says: Callable[..., float]) -> None:
    """A list of rows gets a list of predictions, each with an id of its own."""
    rows = [row | {"temp": float(one), "id": f"r{one}"} for one in range(50)]
    for one in rows:
        del one["flight"]
    found = (await replica.client.post(PREDICT, json=rows)).json()["predictions"]
    assert [one["id"] for one in found] == [f"r{one}" for one in range(50)]
    assert len({one["prediction_id"] for one in found}) == 50
    expected = [says(0.1, one, 1, 1) for one in range(50)]
    assert [one["probabilities"]["true"] for one in found] == pytest.approx(expected, abs=1e-6)


async def test_missing_values_reach_the_model(replica: Any, row: dict[str, Any], says: Callable[..., float]) -> None:
    """Null and absent mean missing where the record class allows it."""
    del row["temp"]
    body = (await replica.client.post(PREDICT, json=row | {"windy": None})).json()
    assert body["probabilities"]["true"] == pytest.approx(says(0.1, 0, 0, 1), abs=1e-6)


async def test_the_label_may_be_in_the_row(replica: Any, row: dict[str, Any]) -> None:
    """A whole record is accepted: what the model does not take is not used."""
    assert (await replica.client.post(PREDICT, json=row | {"late": True})).status_code == 200


@pytest.mark.parametrize(
    ("change", "pointer", "expected"),
    [
        ({"wind": 3}, "/wind", "temp (number, may be null)"),
        ({"temp": "warm"}, "/temp", "expected a number, got a string"),
        ({"temp": True}, "/temp", "expected a number, got true or false"),
        ({"temp": 1e300}, "/temp", "finite"),
        ({"temp": [1]}, "/temp", "expected a number, got a list"),
        ({"windy": 2}, "/windy", "expected true or false"),
        ({"carrier": None}, "/carrier", "may not be null"),
        ({"carrier": "U\0A"}, "/carrier", "NUL"),
        ({"departs": "yesterday"}, "/departs", "ISO 8601"),
        ({"departs": 5}, "/departs", "ISO 8601"),
        ({"flight": {"no": 1}}, "/flight", "record id"),
        ({"flight": ""}, "/flight", "record id"),
    ],
)
async def test_a_bad_value_is_refused(
    replica: Any, row: dict[str, Any], change: dict[str, Any], pointer: str, expected: str
) -> None:
    """The problem names the place and what was expected there."""
    answer = await replica.client.post(PREDICT, json=row | change)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["errors"][0]["pointer"] == pointer
    assert expected in problem["detail"] + problem.get("hint", "")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "CT5000"),
        (b"{", 400, "CT5000"),
        (b"[]", 400, "CT5000"),
        (b"3", 400, "CT5000"),
        (b"[3]", 400, "CT5001"),
        (b'{"temp": NaN}', 400, "CT5000"),
        (b"\xff\xfe", 400, "CT5000"),
        (b"[" * 100_000, 400, "CT5000"),
        (b"[" + b",".join([b"{}"] * 20_000) + b"]", 413, "CT5013"),
        (b" " * (9 * 1024 * 1024), 413, "CT5013"),
    ],
)
async def test_what_is_no_request_is_refused(replica: Any, body: bytes, status: int, code: str) -> None:
    """Unreadable, empty and oversized bodies get a 4xx with its code."""
    answer = await replica.client.post(PREDICT, content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_what_is_not_served_is_404(replica: Any, row: dict[str, Any]) -> None:
    """An unknown model and an unknown path are told apart from a wrong method."""
    unknown = await replica.client.post("/v1/models/nothing/predict", json=row)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "CT5004")
    assert "weather-delays" in unknown.json()["detail"]
    assert (await replica.client.get("/v1/nothing")).status_code == 404
    assert (await replica.client.get(PREDICT)).status_code == 405
