"""Whatever comes, serving says no politely: no request makes it fail."""

import random
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROWS, INFER = "/v1/models/weather-delays/predict", "/v2/models/weather-delays/infer"
NAMES = st.sampled_from(
    ["temp", "windy", "carrier", "departs", "flight", "id", "late", "inputs", "name", "data", "shape"]
)
DATATYPES = st.sampled_from(["FP32", "BYTES", "INT64", "BOOL", "FP64", "UINT8", "nonsense"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | DATATYPES
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=5)
)
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": NAMES,
        "datatype": DATATYPES | LEAVES,
        "shape": st.lists(st.integers(-1, 3) | LEAVES, max_size=3),
        "data": st.lists(LEAVES, max_size=3) | ANYTHING,
    },
)
REQUESTS = ANYTHING | st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS | ANYTHING, max_size=5)},
    optional={"parameters": ANYTHING, "outputs": ANYTHING, "id": LEAVES},
)
SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(value: Any) -> bytes:
    """As JSON; what JSON cannot say is written as text."""
    return (
        orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS) if _sayable(value) else b'{"temp": "\\ud800"}'
    )


def _sayable(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


@SETTINGS
@given(body=ANYTHING | st.lists(st.dictionaries(NAMES, LEAVES, max_size=6), max_size=3))
async def test_any_json_as_rows(replica: Any, body: Any) -> None:
    """Any JSON at the rows door is answered or refused, never a 5xx."""
    assert (await replica.client.post(ROWS, content=written(body))).status_code in (200, 400, 413, 422)


@SETTINGS
@given(body=REQUESTS)
async def test_any_json_as_tensors(replica: Any, body: Any) -> None:
    """Any JSON at the tensors door is answered or refused, never a 5xx."""
    assert (await replica.client.post(INFER, content=written(body))).status_code in (200, 400, 413, 422)


async def test_any_bytes(replica: Any, row: dict[str, Any]) -> None:
    """Flipped, cut and doubled bytes of a good request are answered or refused, never a 5xx."""
    dice = random.Random(7)
    good = orjson.dumps([row, row])
    for _ in range(500):
        body = bytearray(good[: dice.randrange(1, len(good) + 1)] if dice.random() < 0.3 else good)
        for _ in range(dice.randrange(4)):
            body[dice.randrange(len(body))] = dice.randrange(256)
        path = dice.choice([ROWS, INFER])
        assert (await replica.client.post(path, content=bytes(body))).status_code in (200, 400, 422)
