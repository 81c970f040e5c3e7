"""The lake takes a batch once, and joins records with the labels that were known."""

import os
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctloop.events.errors import ObjectMissing, SchemaMismatch, TransientError
from ctloop.events.values import DatasetVersion
from ctloop.platform.storage import Appended, Lake, Roles, S3Access, row_digests

START = datetime(2013, 1, 1, tzinfo=UTC)
MICROS = pa.timestamp("us", "UTC")
ROLES = Roles("id", "at", "late")


def records(ids: list[str], first: int = 0) -> pa.Table:
    """Records an hour apart, numbered from ``first``."""
    hours = [START + timedelta(hours=first + place) for place in range(len(ids))]
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "at": pa.array(hours, MICROS),
            "x": pa.array(range(first, first + len(ids)), pa.float64()),
            "_sequence": pa.array(range(first, first + len(ids)), pa.int64()),
            "_arrived": pa.array(hours, MICROS),
        }
    )


def labels(rows: list[tuple[str, bool, int, int]]) -> pa.Table:
    """Labels as (id, value, hour it was observed, sequence)."""
    return pa.table(
        {
            "id": pa.array([one[0] for one in rows], pa.string()),
            "value": pa.array([one[1] for one in rows], pa.bool_()),
            "observed_at": pa.array([START + timedelta(hours=one[2]) for one in rows], MICROS),
            "sequence": pa.array([one[3] for one in rows], pa.int64()),
        }
    )


def version(appended: Appended) -> DatasetVersion:
    """The version an append gives."""
    return DatasetVersion(
        n=1, digest="d", records_version=appended.records_version, labels_version=appended.labels_version
    )


def ids_of(lake: Lake, dataset: str, appended: Appended) -> list[str]:
    """All ids, in order of event time."""
    return lake.read(dataset, version(appended), labelled=False).column("id").to_pylist()


def test_a_batch_is_appended_once_however_often_it_is_tried(lake: Lake, access: S3Access, dataset: str) -> None:
    """By the same handle, by a new one, and when only the records were written before the process died."""
    one, its_labels = records(["a", "b"]), labels([("a", True, 1, 1)])
    first = lake.append(dataset, one, its_labels, 1, roles=ROLES)
    assert lake.append(dataset, one, its_labels, 1, roles=ROLES) == first
    assert Lake(access).append(dataset, one, its_labels, 1, roles=ROLES) == first
    half = Lake(access).append(dataset, records(["c"], 2), its_labels.slice(0, 0), 2, roles=ROLES)
    whole = Lake(access).append(dataset, records(["c"], 2), labels([("c", True, 1, 2)]), 2, roles=ROLES)
    assert (whole.records_version, whole.labels_version) == (half.records_version, half.labels_version + 1)
    assert ids_of(lake, dataset, whole) == ["a", "b", "c"]
    assert lake.read(dataset, version(whole)).num_rows == 2


def test_repeats_are_known_after_checkpoints_and_compaction(lake: Lake, access: S3Access, dataset: str) -> None:
    """The log is folded every ten commits; the batch's number outlives that, and old versions stay readable."""
    versions = [lake.append(dataset, records([f"i{n}"], n), labels([]), n, roles=ROLES) for n in range(1, 24)]
    lake.compact(dataset)
    again = Lake(access).append(dataset, records(["i23"], 23), labels([]), 23, roles=ROLES)
    assert again.records_version > versions[-1].records_version
    assert len(ids_of(lake, dataset, again)) == 23
    assert len(ids_of(lake, dataset, versions[6])) == 7


def test_a_zombie_writes_nothing(lake: Lake, access: S3Access, dataset: str) -> None:
    """A writer that was frozen before its commit wakes up after the next owner has done the work."""
    lake.append(dataset, records(["a"]), labels([]), 1, roles=ROLES)
    zombie = Lake(access)
    handle = zombie._handle(dataset, "records")  # pyright: ignore[reportPrivateUsage] it has looked at the table, and freezes here
    done = lake.append(dataset, records(["b"], 1), labels([]), 2, roles=ROLES)
    with pytest.raises(TransientError, match="another writer"):
        zombie._commit(dataset, "records", handle, records(["b"], 1), 2)  # pyright: ignore[reportPrivateUsage]
    later = lake.append(dataset, records(["c"], 2), labels([]), 3, roles=ROLES)
    assert zombie.append(dataset, records(["b"], 1), labels([]), 2, roles=ROLES) == later
    assert ids_of(lake, dataset, done) == ["a", "b"]
    assert ids_of(lake, dataset, later) == ["a", "b", "c"]


def test_the_table_takes_new_columns_and_refuses_changed_ones(lake: Lake, dataset: str) -> None:
    """A model file may add a column; a column whose values cannot be kept in the old type is named."""
    lake.append(dataset, records(["a"]), labels([]), 1, roles=ROLES)
    wider = records(["b"], 1).append_column("note", pa.array(["new"]))
    whole = lake.append(dataset, wider, labels([]), 2, roles=ROLES)
    assert lake.read(dataset, version(whole), labelled=False).column("note").to_pylist() == [None, "new"]
    changed = records(["c"], 2).set_column(2, "x", pa.array(["text"]))
    with pytest.raises(SchemaMismatch, match="type it had before"):
        lake.append(dataset, changed, labels([]), 3, roles=ROLES)


def test_reads_take_what_is_asked(lake: Lake, dataset: str) -> None:
    """Columns, a span of event time, with and without labels; unknown names are left out."""
    done = lake.append(dataset, records(["a", "b", "c"]), labels([("b", True, 5, 1)]), 1, roles=ROLES)
    at = version(done)
    assert lake.read(dataset, at).column_names == ["id", "at", "x", "late"]
    span = lake.read(
        dataset, at, since=START + timedelta(hours=1), until=START + timedelta(hours=2), labelled=False, columns=["id"]
    )
    assert span.to_pylist() == [{"id": "b"}]
    own = lake.read(dataset, at, labelled=False, columns=["late", "_sequence", "_observed_at", "none"])
    assert own.column_names == ["late", "_sequence", "_observed_at"]
    assert own.column("late").to_pylist() == [None, True, None]
    with pytest.raises(ValueError, match="zone"):
        lake.read(dataset, at, as_of=datetime(2013, 1, 1))
    with pytest.raises(ObjectMissing):
        lake.read("nobody", at)


def test_a_dataset_without_labels_has_only_records(lake: Lake, dataset: str) -> None:
    """Served predictions: read without labels; columns with a dot in their name are fine."""
    table = records(["a"]).append_column("input.x", pa.array([1.0]))
    table = table.append_column("probabilities", pa.array([[0.5, 0.5]], pa.list_(pa.float64())))
    done = lake.append(dataset, table, None, 1, roles=Roles("id", "at"))
    assert done.labels_version == -1
    found = lake.read(dataset, version(done), labelled=False)
    assert found.select(["input.x", "probabilities"]).to_pylist() == [{"input.x": 1.0, "probabilities": [0.5, 0.5]}]
    assert lake.read(dataset, version(done)).num_rows == 0


LABELS = st.lists(st.tuples(st.sampled_from("abcde"), st.booleans(), st.integers(0, 6)), max_size=25).map(
    lambda rows: [(*row, place) for place, row in enumerate(rows)]
)


def slow_join(held: list[str], rows: list[tuple[str, bool, int, int]], hour: int | None) -> dict[str, bool]:
    """The obvious reference: for each record look at every label."""
    found: dict[str, bool] = {}
    for id in held:
        known = [row for row in rows if row[0] == id and (hour is None or row[2] <= hour)]
        if known:
            found[id] = max(known, key=lambda row: (row[2], row[3]))[1]
    return found


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(rows=LABELS, hour=st.one_of(st.none(), st.integers(-1, 7)))
def test_the_join_is_what_anybody_would_write(lake: Lake, dataset: str, rows: Any, hour: int | None) -> None:
    """The latest label observed as of a time, corrections included, early labels too, rows without one left out."""
    name = f"{dataset}-{abs(hash((tuple(rows), hour))):x}"
    done = lake.append(name, records(["a", "b", "c", "d"]), labels(rows), 1, roles=ROLES)
    as_of = None if hour is None else START + timedelta(hours=hour)
    found = lake.read(name, version(done), as_of=as_of, columns=["id", "late"])
    assert {row["id"]: row["late"] for row in found.to_pylist()} == slow_join(["a", "b", "c", "d"], rows, hour)


@pytest.mark.parametrize("commit", ["records", "labels"])
def test_kill_9_between_the_commits_loses_and_doubles_nothing(
    access: S3Access, lake: Lake, dataset: str, commit: str
) -> None:
    """A process dies by SIGKILL right after one of the two Delta commits; the next one appends the same batch."""
    program = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path[:0] = {sys.path!r}
        from ctloop.platform.storage import Lake, S3Access
        import importlib.util
        spec = importlib.util.spec_from_file_location("lake_rows", {__file__!r})
        rows = importlib.util.module_from_spec(spec); spec.loader.exec_module(rows)
        lake = Lake(S3Access(*os.environ["ACCESS"].split("|")))
        write = lake._commit
        def die(dataset, name, *rest):
            write(dataset, name, *rest)
            if name == {commit!r}:
                os.kill(os.getpid(), signal.SIGKILL)
        lake._commit = die
        lake.append({dataset!r}, rows.records(["a", "b"]), rows.labels([("a", True, 1, 1)]), 1, roles=rows.ROLES)
        """
    )
    keys = "|".join((access.endpoint, access.access_key, access.secret_key, access.bucket))
    dead = subprocess.run([sys.executable, "-c", program], env=os.environ | {"ACCESS": keys}, check=False)
    assert dead.returncode == -signal.SIGKILL
    done = lake.append(dataset, records(["a", "b"]), labels([("a", True, 1, 1)]), 1, roles=ROLES)
    assert ids_of(lake, dataset, done) == ["a", "b"]
    assert lake.read(dataset, version(done)).num_rows == 1
    table = DeltaTable(access.uri(f"lake/{dataset}/records"), storage_options=access.delta_options())
    assert table.version() == 1


def test_digests_tell_rows_apart() -> None:
    """Every value of every type changes its row; a column that is null everywhere changes none."""
    table = pa.table(
        {"s": ["a", "b", "ab", "", None], "n": [1.0, -0.0, 0.0, None, 1.0], "b": [True, None, False, True, True]}
    )
    lanes = row_digests(table)
    assert len({bytes(row) for row in lanes}) == 5
    assert (row_digests(table.append_column("later", pa.nulls(5, pa.string()))) == lanes).all()
    assert (row_digests(table.slice(2, 2)) == lanes[2:4]).all()
    swapped = pa.table({"s": ["b", "a"], "n": [1.0, -0.0], "b": [True, None]})
    assert row_digests(swapped).sum() != lanes[:2].sum()
