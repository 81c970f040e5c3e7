"""Real servers for tests: each started when a test first asks for it, once per session, stopped at its end."""

import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from collector import Collector, collecting

import ctloop.local
from ctloop.local.keys import read_s3_keys
from ctloop.local.state import Stack

SERVERS_OFFSET, STACK_OFFSET = 0, 100
"""Of CTLOOP_PORT_BASE: the servers one by one, and the whole stack, may both run in one session."""


@dataclass(frozen=True)
class ObjectStore:
    """An S3 server and who may use it."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    keys_file: Path


@pytest.fixture(scope="session")
def servers_dir() -> Iterator[Path]:
    """Where the session's servers keep their data: CTLOOP_TEST_DATA, else a folder that goes with the session."""
    if given := os.environ.get("CTLOOP_TEST_DATA"):
        yield Path(given).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="ctloop-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # PostgreSQL is nobody where we are root
        yield Path(folder)


def running(
    folder: Path,
    offset: int,
    components: tuple[str, ...],
    services: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """A stack of some parts, that ends with the session however that ends."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        if base := os.environ.get("CTLOOP_PORT_BASE"):
            patch.setenv("CTLOOP_PORT_BASE", str(int(base) + offset))
        stack = ctloop.local.up(folder, components=components, services=services, tied=True)
    yield stack
    ctloop.local.down(folder)


@pytest.fixture(scope="session")
def kafka(servers_dir: Path) -> Iterator[str]:
    """The bootstrap address of a Kafka."""
    for stack in running(servers_dir / "k", SERVERS_OFFSET, ("kafka",)):
        yield stack.urls["kafka"]


@pytest.fixture(scope="session")
def postgres(servers_dir: Path) -> Iterator[str]:
    """The administrator's DSN of a PostgreSQL, with password."""
    for stack in running(servers_dir / "p", SERVERS_OFFSET, ("postgres",)):
        password = stack.files["postgres"].read_text()
        yield stack.urls["postgres"].replace("postgres@", f"postgres:{password}@")


@pytest.fixture(scope="session")
def s3(servers_dir: Path) -> Iterator[ObjectStore]:
    """An S3 server with a bucket."""
    for stack in running(servers_dir / "s", SERVERS_OFFSET, ("s3",)):
        keys = read_s3_keys(stack.files["s3"])
        yield ObjectStore(
            stack.urls["s3"], keys.access_key, keys.secret_key, stack.s3_bucket, keys_file=stack.files["s3"]
        )


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the whole stack sends its spans."""
    with collecting() as made:
        yield made


@pytest.fixture(scope="session")
def stack(servers_dir: Path, collector: Collector) -> Iterator[Stack]:
    """The five servers and all services, ready, their spans collected."""
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "500"}
    yield from running(servers_dir / "all", STACK_OFFSET, ctloop.local.COMPONENTS, ctloop.local.SERVICES, traced)


@pytest.fixture(scope="module")
def database(postgres: str) -> Iterator[str]:
    """The administrator's DSN of an empty database, one per test module, dropped after it."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield postgres.rpartition("/")[0] + f"/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def topic_prefix() -> str:
    """Put before topics' names, so that tests do not read one another's."""
    return f"t{secrets.token_hex(4)}-"
