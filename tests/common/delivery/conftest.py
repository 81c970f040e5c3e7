"""A fresh topic prefix and database for each test of the delivery."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from probe import SCHEMA
from probe_bench import Bench

from ctloop.platform.migrate import make_schema


@pytest.fixture
async def bench(kafka: str, postgres: str, servers_dir: Path) -> AsyncIterator[Bench]:
    """A fresh prefix and database."""
    name = f"d_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(postgres)
    await admin.execute(f"CREATE DATABASE {name}")
    dsn = postgres.rpartition("/")[0] + f"/{name}"
    made = await asyncpg.connect(dsn)
    await make_schema(made, "probe", None)
    await made.execute(f'SET search_path = "probe"; {SCHEMA}')
    user = postgres.partition("://")[2].partition(":")[0]
    await made.execute(f'ALTER ROLE "{user}" IN DATABASE {name} SET search_path = "probe"')
    await made.close()
    bench = Bench(kafka, dsn, f"t{secrets.token_hex(4)}-", servers_dir)
    await bench.make_topics()
    yield bench
    bench.kill()
    await admin.close()
    admin = await asyncpg.connect(postgres)  # a test may have killed the server
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()
