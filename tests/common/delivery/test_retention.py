"""The books do not grow for ever, and never forget what may still be asked."""

import pytest
from probe_bench import Bench

from ctloop.events.topics import FACTS
from ctloop.platform.delivery import retention

pytestmark = pytest.mark.stack


def test_the_inbox_outlives_every_replay() -> None:
    """Longer than any topic and a dead letter together."""
    longest = max(fact.retention_days for fact in FACTS)
    assert retention.KEEP.days > longest + retention.DEAD_LETTERS.days


async def test_only_what_is_old_goes(bench: Bench) -> None:
    """Rows beyond the time go, the others stay."""
    await bench.query(
        """INSERT INTO inbox (source, id, at)
           SELECT 'x', gen_random_uuid(), clock_timestamp() - n * interval '1 day' FROM generate_series(1, 30) AS n"""
    )
    connection = await bench.connect()
    try:
        assert await retention.sweep(connection) == 30 - retention.KEEP.days + 1
        assert await retention.sweep(connection) == 0
    finally:
        await connection.close()
