"""A lake and objects on a real S3 server."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ctloop.platform.storage import Lake, Objects, S3Access


@pytest.fixture
def access(s3: Any) -> S3Access:
    """How the session's S3 server is reached."""
    return S3Access(s3.endpoint, s3.access_key, s3.secret_key, s3.bucket)


@pytest.fixture
async def objects(access: S3Access) -> AsyncIterator[Objects]:
    """An open store."""
    async with Objects(access) as opened:
        yield opened


@pytest.fixture
def lake(access: S3Access) -> Lake:
    """A lake with no handles yet."""
    return Lake(access)


@pytest.fixture
def dataset() -> str:
    """A dataset nobody else writes."""
    return f"d{secrets.token_hex(4)}"
