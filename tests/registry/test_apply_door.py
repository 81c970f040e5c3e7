"""Manifests anybody may POST: what the compiler would not have made is refused before it is in force anywhere."""

import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from ctloop.events.manifest import ConditionSpec, FieldSpec, Manifest, RecordSpec, RetrainSpec
from ctloop.events.values import ObjectRef
from ctloop.platform.delivery import Edge
from ctloop.platform.http import install_problems
from ctloop.platform.storage import Objects
from ctloop.platform.storage.s3_access import S3Access
from ctloop.policy.conditions import compile_condition
from ctloop_registry.api import BUNDLE_LIMIT, MANIFEST_LIMIT, create_api
from ctloop_registry.store import RegistryStore

TREE = compile_condition("auc > 0.5", {"auc"}).to_json()
GOOD = Manifest(
    model="visits",
    task="classification",
    record=RecordSpec(
        dataset="visit",
        id="visit",
        time="at",
        fields=(
            FieldSpec(name="visit", kind="string"),
            FieldSpec(name="at", kind="time"),
            FieldSpec(name="n", kind="number"),
        ),
        label=FieldSpec(name="back", kind="boolean"),
        earliest="2013-01-01T00:00:00+00:00",
    ),
    metric="log_loss",
    gates=(ConditionSpec(text="auc > 0.5", tree=TREE),),
    retrain=RetrainSpec(condition=ConditionSpec(text="auc > 0.5", tree=TREE)),
    module="m",
    function="visits",
    bundle=ObjectRef(uri="s3://elsewhere/x", sha256="0" * 64, bytes=1, format="zip"),
    python="3.11",
)


def door() -> httpx.AsyncClient:
    """The registry's paths with nothing behind them: what is refused asks neither database nor store."""
    app = FastAPI()
    install_problems(app)
    objects = Objects(S3Access("http://127.0.0.1:9", "k", "s", "bucket"))
    app.include_router(create_api(RegistryStore(), objects)(Edge("registry", ())))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://registry")


def changed(*path: str | int, to: Any) -> bytes:
    """The good manifest with one value changed."""
    whole = json.loads(GOOD.model_dump_json())
    place = whole
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return json.dumps(whole).encode()


BAD: dict[str, bytes] = {
    "empty": b"",
    "no json": b"\xff\xfe",
    "array": b"[]",
    "deep": b"[" * 100_000,
    "nothing": b"{}",
    "name": changed("model", to="../../etc"),
    "name with NUL": changed("model", to="a\0b"),
    "name of 10 kB": changed("model", to="n" * 10_000),
    "dataset": changed("record", "dataset", to="a/b"),
    "column": changed("record", "fields", 2, "name", to="n; DROP TABLE"),
    "kind": changed("record", "fields", 2, "kind", to="blob"),
    "a column twice": changed("record", "fields", 2, "name", to="visit"),
    "an id that is no column": changed("record", "id", to="nobody"),
    "a time that is none": changed("record", "time", to="n"),
    "an earliest that is no time": changed("record", "earliest", to="soon"),
    "an infinite bound": changed("record", "fields", 2, "gt", to=1e999),
    "a derived column of nothing": changed(
        "record", "derived", to=[{"name": "m", "kind": "number", "expression": "huor(at)"}]
    ),
    "a derived column that is code": changed(
        "record", "derived", to=[{"name": "m", "kind": "number", "expression": "__import__('os')"}]
    ),
    "a tree that is none": changed("gates", 0, "tree", to="{}"),
    "a tree that is no json": changed("retrain", "condition", "tree", to="auc"),
    "a tree nested deep": changed("gates", 0, "tree", to="[" * 10_000),
    "trials": changed("trials", to=10**6),
    "a seed": changed("seed", to="dice"),
    "time limit": changed("time_limit_seconds", to=-1),
}  # fmt: skip


async def test_a_bad_manifest_is_422_with_its_reason() -> None:
    """Each of them, before anything is asked of database or store."""
    async with door() as client:
        for name, body in BAD.items():
            answer = await client.post("/v1/pipelines", content=body)
            assert (answer.status_code, answer.json()["code"]) == (422, "CT4220"), (name, answer.text)
            assert answer.json()["detail"] and answer.json()["hint"] and len(answer.content) < 1500, name


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/bundles", b"no zip", 415, "CT1009"),
        ("/v1/bundles", b"", 415, "CT1009"),
        ("/v1/bundles", b"PK" + b"a" * BUNDLE_LIMIT, 413, "CT4130"),
        ("/v1/pipelines", b" " * (MANIFEST_LIMIT + 1), 413, "CT4130"),
        ("/v1/pipelines", changed("bundle", "bytes", to=10**18), 413, "CT4130"),
    ],
)
async def test_what_is_no_bundle_or_too_large_is_refused(path: str, body: bytes, status: int, code: str) -> None:
    """Before it is stored."""
    async with door() as client:
        answer = await client.post(path, content=body)
    assert (answer.status_code, answer.json()["code"], bool(answer.json()["hint"])) == (status, code, True)
