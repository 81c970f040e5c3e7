"""Whatever comes, serving says no politely: no request makes it fail."""

import random
from typing import Any

import orjson
import pytest
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


WHOLE = b'"carrier": "UA", "departs": "2013-05-14T06:30:00Z", "flight": "UA1", "temp": 1.5, "windy": true'
ODD: dict[str, tuple[bytes, int, str]] = {
    "byte order mark": (b"\xef\xbb\xbf{%s}" % WHOLE, 400, "CT5000"),
    "1e400": (b'{%s, "temp": 1e400}' % WHOLE, 400, ""),
    "-1e400": (b'{%s, "temp": -1e400}' % WHOLE, 400, ""),
    "an integer of 300 digits": (b'{%s, "temp": 1%s}' % (WHOLE, b"0" * 300), 400, "CT5001"),
    "an id beyond int64": (b'{%s, "flight": 99999999999999999999}' % WHOLE, 400, "CT5001"),
    "lone surrogate": (b'{%s, "carrier": "\\ud800"}' % WHOLE, 400, "CT5000"),
    "not UTF-8": (b'{%s, "carrier": "\xff"}' % WHOLE, 400, "CT5000"),
    "NUL": (b'{%s, "flight": "a\\u0000"}' % WHOLE, 400, "CT5001"),
    "an id of 10 kB": (b'{%s, "flight": "%s"}' % (WHOLE, b"a" * 10_000), 400, "CT5001"),
    "a text of 1 MB": (b'{%s, "carrier": "%s"}' % (WHOLE, b"a" * 1_000_000), 400, "CT5001"),
    "a column's name of 1 MB": (b'{%s, "%s": 1}' % (WHOLE, b"a" * 1_000_000), 400, "CT5002"),
    "year 10000": (b'{%s, "departs": "10000-01-01T00:00:00Z"}' % WHOLE, 400, "CT5001"),
    "year 0": (b'{%s, "departs": "0000-01-01T00:00:00Z"}' % WHOLE, 400, "CT5001"),
    "year 9999": (b'{%s, "departs": "9999-12-31T23:59:59Z"}' % WHOLE, 200, ""),
    "before the year 1 in UTC": (b'{%s, "departs": "0001-01-01T00:00:00+14:00"}' % WHOLE, 200, ""),
    "a name twice": (b'{%s, "temp": 2.5}' % WHOLE, 200, ""),
    "CRLF": (b"{\r\n%s\r\n}\r\n" % WHOLE, 200, ""),
    "deep": (b'{%s, "temp": %s}' % (WHOLE, b"[" * 100_000), 400, "CT5000"),
    "deep and closed": (b'{%s, "temp": %s%s}' % (WHOLE, b"[" * 900, b"]" * 900), 400, "CT5001"),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0", 400, "CT5000"),
    "empty": (b"", 400, "CT5000"),
    "two rows of NDJSON": (b"{%s}\n{%s}" % (WHOLE, WHOLE), 400, "CT5000"),
}


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_row_has_one_answer(replica: Any, name: str) -> None:
    """A prediction, or a problem with its code and what to do, of bounded length."""
    body, status, code = ODD[name]
    answer = await replica.client.post(ROWS, content=body)
    assert answer.status_code == status, answer.text[:500]
    assert len(answer.content) < 2000
    if status != 200:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == (code or answer.json()["code"]) and answer.json()["hint"]


def tensors(**change: Any) -> bytes:
    """A request whose tensors are right, but for a change of temp's."""
    right = {"name": "temp", "shape": [1], "datatype": "FP32", "data": [1.5]}
    others = [{"name": "windy", "shape": [1], "datatype": "BOOL", "data": [True]},
              {"name": "carrier", "shape": [1], "datatype": "BYTES", "data": ["UA"]},
              {"name": "departs", "shape": [1], "datatype": "INT64", "data": [1_368_513_000_000_000]}]  # fmt: skip
    return orjson.dumps({"inputs": [right | change, *others]})


ODD_TENSORS: dict[str, tuple[bytes, int]] = {
    "right": (tensors(), 200),
    "shape of 2^63": (tensors(shape=[2**63]), 400),
    "negative shape": (tensors(shape=[-1]), 400),
    "no dimension": (tensors(shape=[]), 400),
    "shape of truth": (tensors(shape=[True]), 400),
    "shape of fractions": (tensors(shape=[1.5]), 400),
    "many dimensions": (tensors(shape=[1] * 1000), 400),
    "wrong datatype": (tensors(datatype="BYTES"), 400),
    "data for fewer": (tensors(data=[]), 400),
    "data nested deep": (tensors(data=[[[[1.5]]]]), 400),
    "1e39 in FP32": (tensors(data=[1e39]), 400),
    "microseconds beyond int64": (tensors().replace(b"1368513000000000", b"1" * 30), 400),
    "a record id of 10 kB": (tensors()[:-1] + b',"parameters":{"record_id":"%s"}}' % (b"a" * 10_000), 400),
    "ten thousand inputs": (orjson.dumps({"inputs": [{}] * 10_000}), 400),
    "an output nobody has": (tensors()[:-1] + b',"outputs":[{"name":"%s"}]}' % (b"a" * 100_000), 400),
    "binary data": (tensors()[:-1] + b',"parameters":{"binary_data_output":true}}', 200),
}


@pytest.mark.parametrize("name", ODD_TENSORS)
async def test_an_odd_tensor_has_one_answer(replica: Any, name: str) -> None:
    """In the protocol's own form, with the code beside it."""
    body, status = ODD_TENSORS[name]
    answer = await replica.client.post(INFER, content=body)
    assert answer.status_code == status, answer.text[:500]
    assert len(answer.content) < 2000
    if status != 200:
        assert answer.json()["error"] and answer.json()["code"].startswith("CT50")


@pytest.mark.parametrize("path", ["/v1/models/%00/predict", "/v2/models/%00/infer", "/v1/models/" + "m" * 10_000 + "/predict",
                                  "/v2/models/%2e%2e/infer", "/v2/models/weather-delays/versions/9999999999999999999/infer",
                                  "/v2/models/weather-delays/versions/-1/infer"])  # fmt: skip
async def test_an_odd_name_is_not_served(replica: Any, path: str) -> None:
    """No cache, no registry, no file is asked for it."""
    answer = await replica.client.post(path, content=b"{}")
    assert (answer.status_code, answer.json()["code"][:4]) == (404, "CT50")
    assert len(answer.content) < 1000


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
