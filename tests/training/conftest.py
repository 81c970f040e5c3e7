"""A lake with flowers, a Ray head, and training's schema in a transaction that is rolled back."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from flower_lake import Compute, flowers

import ctloop.local
from ctloop.events.values import DatasetVersion
from ctloop.platform.migrate import make_schema
from ctloop.platform.settings import RaySettings, S3Settings
from ctloop.platform.storage import Lake, Roles
from ctloop.platform.storage.object_store import ObjectStore
from ctloop.platform.storage.s3_access import S3Access

COMPUTE_OFFSET = 300


@pytest.fixture(scope="session")
def compute(servers_dir: Path) -> Iterator[Compute]:
    """An S3 server with a lake of flowers, and a Ray head."""
    folder = servers_dir / "c"
    with pytest.MonkeyPatch.context() as patch:
        if base := os.environ.get("CTLOOP_PORT_BASE"):
            patch.setenv("CTLOOP_PORT_BASE", str(int(base) + COMPUTE_OFFSET))
        stack = ctloop.local.up(folder, components=("s3", "ray"), services=(), tied=True)
    s3 = S3Settings(endpoint=stack.urls["s3"], keys_file=stack.files["s3"], bucket=stack.s3_bucket)
    objects = ObjectStore(S3Access.of(s3))
    objects.prepare()
    records, labels = flowers()
    done = Lake(s3).append("flower", records, labels, 1, roles=Roles(id="flower", time="seen", label="tall"))
    version = DatasetVersion(n=1, digest="d", records_version=done.records_version, labels_version=done.labels_version)
    ray = RaySettings(address=stack.urls["ray"], token_file=stack.files["ray"])
    yield Compute(stack, s3, ray, objects, version)
    ctloop.local.down(folder)


@pytest.fixture
async def connection(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection in training's schema, inside a transaction that is rolled back."""
    opened = await asyncpg.connect(database)
    await make_schema(opened, "training", None)
    await opened.execute("SET search_path = training")
    transaction = opened.transaction()
    await transaction.start()
    yield opened
    await transaction.rollback()
    await opened.close()
