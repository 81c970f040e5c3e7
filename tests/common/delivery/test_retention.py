"""The books do not grow for ever, and never forget what may still be asked."""

import importlib

import asyncpg
import pytest
from probe_bench import Bench

from ctloop.events.topics import FACTS
from ctloop.platform.delivery import retention
from ctloop.platform.migrate import make_schema

pytestmark = pytest.mark.stack


def test_the_inbox_outlives_every_replay() -> None:
    """Longer than any topic, and than a dead letter can be played again."""
    longest = max(fact.retention_days for fact in FACTS)
    assert retention.KEEP.days > max(longest, retention.DEAD_LETTERS.days)


async def test_only_what_is_old_goes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows beyond their time go, at most a batch of a table at once, the others stay."""
    monkeypatch.setattr(retention, "BATCH", 5)
    at = "clock_timestamp() - n * interval '1 day' FROM generate_series(1, 30) AS n"
    record = "'t', 0, n, '', 's', gen_random_uuid(), '[]', '', 'undecodable', ''"
    await bench.query(f"INSERT INTO inbox (source, id, at) SELECT 'x', gen_random_uuid(), {at}")
    for table, more, value in (("quarantine", "at", ""), ("dead_event", "attempts, first_failed, at", "1, now(), ")):
        await bench.query(
            f"""INSERT INTO {table} (topic, part, "offset", key, source, id, headers, payload, reason, message, {more})
                SELECT {record}, {value}{at}"""
        )
    connection = await bench.connect()
    try:
        assert await retention.sweep(connection, retention.DELIVERY)
        assert await connection.fetchval("SELECT count(*) FROM inbox") == 25
        while await retention.sweep(connection, retention.DELIVERY):
            pass
        left = {
            one: await connection.fetchval(f"SELECT count(*) FROM {one}")
            for one in ("inbox", "quarantine", "dead_event")
        }
    finally:
        await connection.close()
    days, letters = retention.KEEP.days - 1, retention.DEAD_LETTERS.days - 1
    assert left == {"inbox": days, "quarantine": letters, "dead_event": letters}


@pytest.mark.parametrize("service", ["ingestion", "validation"])
async def test_a_service_declares_how_long_its_rows_are_kept(service: str, database: str) -> None:
    """The SQL it declares runs against its own tables."""
    connection = await asyncpg.connect(database)
    try:
        await make_schema(connection, service, None)
        await connection.execute(f'SET search_path = "{service}"')
        keeps = importlib.import_module(f"ctloop_{service}.store").KEEPS
        assert not await retention.sweep(connection, (*retention.DELIVERY, *keeps))
    finally:
        await connection.close()
