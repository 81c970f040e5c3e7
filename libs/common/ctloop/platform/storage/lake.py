"""The lake: two Delta tables per dataset, appended exactly once, read through one join. Blocking: use a thread.

A repeat of an append is recognised by the Delta application transaction read on the very handle that commits; whoever
commits on a stale handle fails, so two writers of one batch cannot both succeed. Reads go through DataFusion:
``DeltaTable.to_pyarrow_table`` from S3 aborts the process now and then when it exits soon after.
"""

import json
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, QueryBuilder, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from ctloop.events.errors import ObjectMissing, SchemaMismatch, TransientError
from ctloop.events.values import DatasetVersion
from ctloop.platform.settings import S3Settings
from ctloop.platform.storage.as_of import Question, Roles, plain, plain_type, select_records
from ctloop.platform.storage.s3_access import S3Access

RECORDS = "records"
LABELS = "labels"
WRITER = "ctloop.validation"
"""The application id of our appends; the version in it is the batch's number."""
CHECKPOINT_INTERVAL = "10"
NO_TABLE = -1


@dataclass(frozen=True)
class Appended:
    """The Delta versions of both tables after an append; -1: there is no such table."""

    records_version: int
    labels_version: int


class Lake:
    """Datasets as Delta tables under ``lake/<dataset>/`` of one bucket. One writer at a time per dataset."""

    def __init__(self, s3: S3Settings | S3Access) -> None:
        self._s3 = s3
        self._options: dict[str, str] | None = None
        self._handles: dict[str, DeltaTable] = {}
        self._lock = threading.Lock()

    def append(
        self, dataset: str, records: pa.Table, labels: pa.Table | None, number: int, *, roles: Roles
    ) -> Appended:
        """Append a batch once, however often it is called: records, then labels, each in one commit.

        ``records`` have ``_sequence`` and ``_arrived`` beside the record's columns; ``labels`` are
        (id, value, observed_at, sequence), None where the dataset has none. Numbers rise from batch to batch; one that is
        not greater than the last appended is a repeat. A table is created when it is first seen, even without rows.

        Raises:
            TransientError: the store does not answer, or another writer was faster.
        """
        return Appended(
            self._append_once(dataset, RECORDS, records, number, roles),
            NO_TABLE if labels is None else self._append_once(dataset, LABELS, labels, number, roles),
        )

    def read(
        self,
        dataset: str,
        version: DatasetVersion,
        *,
        as_of: datetime | None = None,
        columns: Sequence[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        labelled: bool = True,
    ) -> pa.Table:
        """Records of a dataset version, each with the latest label observed as of a time, in order of event time.

        ``as_of`` is inclusive and concerns labels; ``since <= event time < until`` concerns records. ``columns``: names of
        the record class, the label's too, or ``_sequence``, ``_arrived``, ``_observed_at``; unknown names are left out.
        Default: the record's columns and the label. ``labelled``: rows without a label are left out.

        Raises:
            ObjectMissing: there is no such dataset or version.
            TransientError: the store does not answer.
        """
        question = Question(as_of, columns, since, until, labelled)
        return self._answer(dataset, version, question)

    def compact(self, dataset: str) -> None:
        """Join small files. Delta versions rise, dataset versions and their digests stay as they are."""
        for name in (RECORDS, LABELS):
            with _translated(dataset):
                try:
                    self._handle(dataset, name).optimize.compact()
                except TableNotFoundError:
                    continue

    def _append_once(self, dataset: str, name: str, rows: pa.Table, number: int, roles: Roles) -> int:
        with _translated(dataset):
            handle = self._handle_or_create(dataset, name, rows.schema, roles)
            appended = handle.transaction_version(WRITER)
            if rows.num_rows and (appended is None or appended < number):
                self._commit(dataset, name, handle, _fitted(rows, handle, dataset), number)
            return handle.version()

    def _commit(self, dataset: str, name: str, handle: DeltaTable, rows: pa.Table, number: int) -> None:
        properties = CommitProperties(
            custom_metadata={"batch": str(number)}, app_transactions=[Transaction(WRITER, number)]
        )
        wider = set(rows.column_names) - {field.name for field in handle.schema().fields}
        try:
            write_deltalake(
                handle, rows, mode="append", schema_mode="merge" if wider else None, commit_properties=properties
            )
        except CommitFailedError as error:
            with self._lock:
                self._handles.pop(self._uri(dataset, name), None)
            raise TransientError(f"{dataset}: another writer appended to {name} at the same time") from error

    def _handle_or_create(self, dataset: str, name: str, schema: pa.Schema, roles: Roles) -> DeltaTable:
        try:
            return self._handle(dataset, name)
        except TableNotFoundError:
            DeltaTable.create(
                self._uri(dataset, name),
                schema,
                mode="ignore",
                description=json.dumps(asdict(roles)),
                configuration={"delta.checkpointInterval": CHECKPOINT_INTERVAL},
                storage_options=self._storage_options(),
            )
            return self._handle(dataset, name)

    def _handle(self, dataset: str, name: str) -> DeltaTable:
        """The one handle we keep for a table (opening it for each commit costs four times as much), brought up to date."""
        uri = self._uri(dataset, name)
        with self._lock:
            handle = self._handles.get(uri)
            if handle is None:
                handle = self._handles[uri] = DeltaTable(uri, storage_options=self._storage_options())
            else:
                handle.update_incremental()
        return handle

    def _answer(self, dataset: str, version: DatasetVersion, question: Question) -> pa.Table:
        if version.records_version == NO_TABLE:
            raise ObjectMissing(f"{dataset}@{version.n}: the dataset has no records yet")
        with _translated(dataset):
            records = self._at(dataset, RECORDS, version.records_version)
            roles = Roles(**json.loads(records.metadata().description or "{}"))
            schema = pa.schema(records.schema().to_arrow())  # pyright: ignore[reportArgumentType] Arrow C interface
            builder = QueryBuilder().register("records", records)
            labels = version.labels_version != NO_TABLE
            if labels:
                handle = self._at(dataset, LABELS, version.labels_version)
                builder = builder.register("labels", handle)
                roles = Roles(**json.loads(handle.metadata().description or "{}"))
            found: Any = builder.execute(select_records(schema, roles, question, labels=labels)).read_all()
        table = plain(pa.table(found))
        return table if labels or not question.labelled else table.slice(0, 0)

    def _at(self, dataset: str, name: str, version: int) -> DeltaTable:
        try:
            return DeltaTable(self._uri(dataset, name), version=version, storage_options=self._storage_options())
        except TableNotFoundError as error:
            raise ObjectMissing(f"{dataset}: there is no table of {name}") from error

    def _uri(self, dataset: str, name: str) -> str:
        return self._access().uri(f"lake/{dataset}/{name}")

    def _access(self) -> S3Access:
        if not isinstance(self._s3, S3Access):
            self._s3 = S3Access.of(self._s3)
        return self._s3

    def _storage_options(self) -> dict[str, str]:
        if self._options is None:
            self._options = self._access().delta_options()
        return self._options


def _fitted(rows: pa.Table, handle: DeltaTable, dataset: str) -> pa.Table:
    """The rows in the table's types, where it has the column already.

    Raises:
        SchemaMismatch: a column's type has changed to one its values cannot be kept in.
    """
    known = {field.name: field.type for field in pa.schema(handle.schema().to_arrow())}  # pyright: ignore[reportArgumentType]
    fields = [pa.field(one.name, plain_type(known.get(one.name, one.type))) for one in rows.schema]
    try:
        return rows.cast(pa.schema(fields))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaMismatch(f"{dataset}: a column is not of the type it had before: {error}"[:500]) from error


@contextmanager
def _translated(dataset: str) -> Generator[None]:
    """Say the client's errors in our names; a table that is not there yet is the caller's business."""
    try:
        yield
    except TableNotFoundError:
        raise
    except (DeltaError, OSError) as error:
        raise TransientError(f"lake of {dataset}: {type(error).__name__}: {str(error)[:500]}") from error
