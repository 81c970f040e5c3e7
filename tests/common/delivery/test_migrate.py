"""Tables of another version are left alone."""

import asyncpg
import pytest

from ctloop.platform.migrate import OtherVersion, make_schema

pytestmark = pytest.mark.stack


async def test_a_schema_is_made_again_only_by_the_version_that_made_it(database: str) -> None:
    """A second time changes nothing; other SQL, or tables nobody named, are refused."""
    connection = await asyncpg.connect(database)
    try:
        await make_schema(connection, "registry", None)
        await make_schema(connection, "registry", None)
        await connection.execute("""COMMENT ON SCHEMA "registry" IS 'older'""")
        with pytest.raises(OtherVersion, match="registry"):
            await make_schema(connection, "registry", None)
    finally:
        await connection.close()
