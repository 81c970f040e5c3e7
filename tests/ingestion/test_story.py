"""Records come in through the door and end in the lake: the whole way of data."""

from datetime import UTC, datetime
from typing import Any

from ctloop.events.values import Verdict
from ctloop.platform.storage import Lake


async def test_records_become_a_dataset_version(world: Any) -> None:
    """Three flights, one of them labelled, become version 1; the label that comes later makes version 2."""
    await world.release()
    answer = await world.send([world.flight(1), world.flight(2, late=True), world.flight(3)])
    assert answer.status_code == 202, answer.text
    (first,) = await world.validated(1)
    assert (first.verdict, first.rows, first.labelled, first.version.n) == (Verdict.PASSED, 3, 1, 1)
    await world.send([{"flight": "F1", "late": False, "observed_at": "2013-01-02T00:00:00Z"}])
    second = (await world.validated(2))[1]
    assert (second.rows, second.labelled, second.version.n) == (0, 1, 2)
    lake: Lake = world.validation.jobs.lake
    table = lake.read("flight", second.version)
    assert table.select(["flight", "late"]).to_pylist() == [
        {"flight": "F1", "late": False},
        {"flight": "F2", "late": True},
    ]
    assert lake.read("flight", second.version, as_of=datetime(2013, 1, 1, tzinfo=UTC)).num_rows == 0
    assert lake.read("flight", first.version, labelled=False).num_rows == 3
