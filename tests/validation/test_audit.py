"""The audit as a table: what was sent, what is accepted, what is refused and why."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from ctloop.events.manifest import FieldSpec, RecordSpec
from ctloop_validation.audit import Outcome, Prepared, finish, prepare

ARRIVED = datetime(2013, 6, 1, tzinfo=UTC)
RECORD = RecordSpec(
    dataset="visit",
    id="visit",
    time="at",
    fields=(
        FieldSpec(name="visit", kind="string"),
        FieldSpec(name="at", kind="time"),
        FieldSpec(name="kind", kind="string", allowed=("a", "b")),
        FieldSpec(name="size", kind="number", gt=0.0, le=100.0),
        FieldSpec(name="count", kind="integer", nullable=True, ge=0),
        FieldSpec(name="ok", kind="boolean", nullable=True),
        FieldSpec(name="note", kind="string", nullable=True, max_length=5),
    ),
    label=FieldSpec(name="bought", kind="boolean"),
    earliest="2013-01-01T00:00:00+00:00",
    latest="2014-01-01T00:00:00+00:00",
)
GOOD: dict[str, Any] = {"visit": "v1", "at": "2013-05-01T00:00:00Z", "kind": "a", "size": 1.5}


def staged(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as staging leaves them: mixed columns are text."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, Any] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[name] = pa.array([None if one is None else str(one) for one in values])
    columns["_sequence"] = pa.array(range(len(rows)), pa.int64())
    columns["_arrived"] = pa.array([ARRIVED] * len(rows), pa.timestamp("us", "UTC"))
    columns["_raw"] = pa.nulls(len(rows), pa.binary())
    columns["_problem"] = pa.nulls(len(rows), pa.string())
    return pa.table(columns)


def audit(
    rows: list[dict[str, Any]],
    known_records: Mapping[str, bytes] | None = None,
    known_labels: Mapping[str, bytes] | None = None,
    record: RecordSpec = RECORD,
) -> tuple[Outcome, Prepared]:
    """Audit rows after batches that are known."""
    prepared = prepare(staged(rows), record)
    return finish(prepared, record, known_records or {}, known_labels or {}), prepared


def rules(prepared: Prepared) -> list[tuple[str, int]]:
    """Rows in quarantine by rule."""
    return prepared.examined.findings.counts()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"size": "big"}, "size: not a number or not finite"),
        ({"size": float("nan")}, "size: not a number or not finite"),
        ({"size": float("inf")}, "size: not a number or not finite"),
        ({"size": "1e999"}, "size: not a number or not finite"),
        ({"size": 0.0}, "size: greater than 0"),
        ({"size": 100.5}, "size: at most 100"),
        ({"size": None}, "size: missing"),
        ({"kind": "c"}, "kind: not one of a, b"),
        ({"kind": None}, "kind: missing"),
        ({"count": 1.5}, "count: not a whole number"),
        ({"count": -1}, "count: at least 0"),
        ({"ok": 2}, "ok: not true or false"),
        ({"ok": "perhaps"}, "ok: not true or false"),
        ({"note": "longer"}, "note: longer than 5 characters"),
        ({"note": "a\0b"}, "note: a NUL character"),
        ({"visit": None}, "visit: missing"),
        ({"visit": "v" * 501}, "visit: longer than 500 characters"),
        ({"visit": "v\0"}, "visit: a NUL character"),
        ({"at": "yesterday"}, "at: not a time"),
        ({"at": "2013-02-31T00:00:00Z"}, "at: not a time"),
        ({"at": 1370000000}, "at: not a time"),
        ({"at": "0000-01-01"}, "at: not a time"),
        ({"at": "2013-05-01T25:61:00Z"}, "at: not a time"),
        ({"at": "2013-05-01T00:00:00+99:99"}, "at: not a time"),
        ({"at": "1" * 400}, "at: not a time"),
        ({"count": str(10**30)}, "count: not a whole number"),
        ({"count": "9" * 19}, "count: not a whole number"),
        ({"visit": "v" * 10_000}, "visit: longer than 500 characters"),
        ({"at": None}, "at: missing"),
        ({"at": "2012-12-31T23:59:59Z"}, "at: before 2013-01-01T00:00:00+00:00"),
        ({"at": "2014-01-02T00:00:00Z"}, "at: after 2014-01-01T00:00:00+00:00"),
        ({"bought": "maybe"}, "bought: not true or false"),
        ({"bought": True, "observed_at": "soon"}, "observed_at: not a time"),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused_by_its_name(change: dict[str, Any], rule: str) -> None:
    """The row goes to quarantine with the rule as the record class says it; its neighbour is accepted."""
    outcome, prepared = audit([{**GOOD, **change}, {**GOOD, "visit": "v2"}])
    assert rules(prepared) == [(rule, 1)]
    assert outcome.records.column("visit").to_pylist() == ["v2"]
    assert outcome.quarantine.column("_reasons").to_pylist()[0][0] == rule
    assert len(outcome.shown) == 1


@pytest.mark.parametrize("micros", [2**63 - 1, -(2**63), 253_402_300_800_000_000, -62_135_596_800_000_001])
def test_a_time_nobody_has_is_refused_like_any_other(micros: int) -> None:
    """Arrow counts to the year 294247, Python to 9999: the row is refused and shown, and costs no other row."""
    table = staged([{**GOOD, "at": None}, {**GOOD, "at": None, "visit": "v2"}])
    good = int(datetime(2013, 5, 1, tzinfo=UTC).timestamp() * 1_000_000)
    times = pa.array([micros, good], pa.timestamp("us", "UTC"))
    prepared = prepare(table.set_column(table.column_names.index("at"), "at", times), RECORD)
    outcome = finish(prepared, RECORD, {}, {})
    assert rules(prepared) == [("at: not a time", 1)]
    assert outcome.records.column("visit").to_pylist() == ["v2"] and len(outcome.shown) == 1
    assert outcome.data_time == datetime(2013, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "column", "value"),
    [
        ({"size": "2.5"}, "size", 2.5),
        ({"size": 3}, "size", 3.0),
        ({"count": 2.0}, "count", 2),
        ({"count": "7"}, "count", 7),
        ({"ok": 1}, "ok", True),
        ({"ok": "FALSE"}, "ok", False),
        ({"visit": 7}, "visit", "7"),
        ({"at": "2013-05-01T02:00:00+02:00"}, "at", datetime(2013, 5, 1, tzinfo=UTC)),
        ({"at": "2013-05-01 00:00:00"}, "at", datetime(2013, 5, 1, tzinfo=UTC)),
        ({"at": "2013-05-01"}, "at", datetime(2013, 5, 1, tzinfo=UTC)),
        ({"at": "2013-05-01T00:00:00.123456789Z"}, "at", datetime(2013, 5, 1, 0, 0, 0, 123456, tzinfo=UTC)),
        ({"at": datetime(2013, 5, 1)}, "at", datetime(2013, 5, 1, tzinfo=UTC)),
    ],
)
def test_what_can_be_read_without_guessing_is_read(change: dict[str, Any], column: str, value: Any) -> None:
    """Numbers and times in text, whole floats, 0 and 1; a time without zone is UTC."""
    outcome, prepared = audit([{**GOOD, **change}])
    assert rules(prepared) == []
    assert outcome.records.column(column).to_pylist() == [value]


def test_repeats_are_dropped_and_other_content_is_refused() -> None:
    """The first of an id holds, within a batch as over batches."""
    first, _ = audit([GOOD])
    ids, digests, *_ = first.known
    again, prepared = audit(
        [
            GOOD,
            {**GOOD, "size": 2.0},
            {**GOOD, "visit": "v2"},
            {**GOOD, "visit": "v2"},
            {**GOOD, "visit": "v2", "ok": True},
        ],
        dict(zip(ids, digests, strict=True)),
    )
    assert again.settled.duplicates == 2
    assert again.records.column("visit").to_pylist() == ["v2"]
    assert rules(prepared) == [("id-reused: this id came before with other content", 2)]


def test_labels_come_late_twice_and_corrected() -> None:
    """A label needs an id only; the same one again is dropped, another one is a correction with a later sequence."""
    part = {"visit": "v1", "bought": True}
    outcome, prepared = audit([part, part, {**part, "bought": False}, {**GOOD, "visit": "v2", "bought": True}])
    assert rules(prepared) == []
    assert outcome.labels is not None
    assert outcome.labels.select(["id", "value", "sequence"]).to_pylist() == [
        {"id": "v1", "value": True, "sequence": 0},
        {"id": "v1", "value": False, "sequence": 2},
        {"id": "v2", "value": True, "sequence": 3},
    ]
    assert set(outcome.labels.column("observed_at").to_pylist()) == {ARRIVED}
    *_, ids, digests = outcome.known
    later, _ = audit([{**part, "bought": False}, part], {}, dict(zip(ids, digests, strict=True)))
    assert later.labels is not None
    assert later.labels.column("value").to_pylist() == [True]


def test_a_label_says_when_it_was_observed() -> None:
    """observed_at travels with the label and moves data time; a clock in the future does not."""
    times = ["2013-05-20T00:00:00Z", "2013-12-24T00:00:00Z"]
    outcome, _ = audit(
        [
            GOOD,
            *({"visit": f"v{place}", "bought": True, "observed_at": time} for place, time in enumerate(times)),
            {**GOOD, "visit": "v9", "at": "2013-11-01T00:00:00Z"},
        ]
    )
    assert outcome.labels is not None
    assert outcome.labels.column("observed_at").to_pylist()[0] == datetime(2013, 5, 20, tzinfo=UTC)
    assert outcome.data_time == datetime(2013, 5, 20, tzinfo=UTC)
    assert (outcome.clock_suspect, outcome.records.num_rows) == (1, 2)


def test_content_is_the_id_where_there_is_none() -> None:
    """The same row twice is one record; the id is made of the content."""
    record = RECORD.model_copy(update={"id_from_content": True})
    row = {name: value for name, value in GOOD.items() if name != "visit"}
    outcome, prepared = audit([row, row, {**row, "size": 2.0}], record=record)
    assert rules(prepared) == []
    assert (outcome.records.num_rows, outcome.settled.duplicates) == (2, 1)


def test_unreadable_rows_are_refused_with_the_reason_of_staging() -> None:
    """What was never a row keeps its bytes."""
    table = staged([GOOD, GOOD])
    table = table.set_column(table.column_names.index("_problem"), "_problem", pa.array(["not JSON", None]))
    table = table.set_column(table.column_names.index("_raw"), "_raw", pa.array([b"{\0", None], pa.binary()))
    prepared = prepare(table, RECORD)
    outcome = finish(prepared, RECORD, {}, {})
    assert rules(prepared) == [("unreadable: not JSON", 1)]
    assert outcome.shown[0].row == "{\\x00"
    assert outcome.records.num_rows == 1


def test_the_digest_depends_on_content_alone() -> None:
    """Order, and how it came in batches, make no difference; a value does."""
    rows = [{**GOOD, "visit": f"v{number}", "bought": True} for number in range(4)]
    whole, _ = audit(rows)
    shuffled, _ = audit(rows[::-1])
    first, _ = audit(rows[:2])
    second, _ = audit(rows[2:])
    both = first.digest.plus(second.digest.first, second.digest.second, second.digest.rows)
    other, _ = audit([*rows[:3], {**rows[3], "size": 9.0}])
    assert whole.digest == shuffled.digest == both
    assert whole.digest != other.digest


def test_rows_of_one_arrival_have_an_order_where_there_is_no_time() -> None:
    """A microsecond apart, so that what is learned from and what judges it differ in time; with a time it stays as it is."""
    timeless = RecordSpec(
        dataset="shop",
        id="n",
        time=None,
        fields=(FieldSpec(name="n", kind="integer"), FieldSpec(name="size", kind="number")),
    )
    rows = [{"n": one, "size": 1.0} for one in range(3)]
    outcome, _ = audit(rows, record=timeless)
    assert outcome.records.column("_arrived").to_pylist() == [ARRIVED + timedelta(microseconds=one) for one in range(3)]
    assert outcome.data_time == ARRIVED + timedelta(microseconds=2)
    timed, _ = audit([GOOD, {**GOOD, "visit": "v2"}])
    assert set(timed.records.column("_arrived").to_pylist()) == {ARRIVED}


def test_a_column_may_be_called_probabilities() -> None:
    """That of a record is its own; only predictions, which are ours, have lists there."""
    fields = (FieldSpec(name="n", kind="integer"), FieldSpec(name="probabilities", kind="number"))
    outcome, _ = audit(
        [{"n": 1, "probabilities": 0.5}], record=RecordSpec(dataset="odd", id="n", time=None, fields=fields)
    )
    assert outcome.records.column("probabilities").to_pylist() == [0.5]
