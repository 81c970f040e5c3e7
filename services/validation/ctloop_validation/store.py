"""The SQL of validation's data half: datasets and their versions, ids seen, rows in quarantine. (Models: model_store.py.)"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ctloop.events.manifest import RecordSpec
from ctloop.events.values import DatasetVersion
from ctloop.platform.delivery.retention import Kept, since
from ctloop.platform.pipelines import PREDICTIONS, manifest_of, manifests_over
from ctloop.platform.storage import DatasetDigest
from ctloop_validation.work import QuarantinedRow

Connection = Any
CHUNK = 20_000
"""Ids per statement: each stays well within the statement's time limit."""
KEEPS = (Kept("quarantined_row", since("quarantined"), timedelta(days=90)),)
"""For people to look at; the object of the batch has every row."""


@dataclass(frozen=True)
class Dataset:
    """The newest state of a dataset."""

    version: DatasetVersion
    digest: DatasetDigest
    records: int
    labels: int
    data_time: datetime | None


EMPTY = Dataset(
    DatasetVersion(n=0, digest=DatasetDigest().hex(""), records_version=-1, labels_version=-1),
    DatasetDigest(),
    0,
    0,
    None,
)


@dataclass(frozen=True)
class Audit:
    """What is kept of one audit."""

    number: int
    verdict: str
    rows: int
    labelled: int
    duplicates: int
    quarantined: int
    report_uri: str
    quarantine_uri: str | None


class ValidationStore:
    """Reads and writes rows inside the transaction it is given."""

    async def records_of(self, connection: Connection, dataset: str) -> tuple[tuple[RecordSpec, ...], bool]:
        """The record classes over a dataset; for predictions the model's, and True.

        Raises:
            DatasetNotYetKnown, ModelNotYetKnown
        """
        if dataset.endswith(PREDICTIONS):
            return ((await manifest_of(connection, dataset.removesuffix(PREDICTIONS))).record,), True
        return tuple(manifest.record for manifest in await manifests_over(connection, dataset)), False

    async def dataset(self, connection: Connection, dataset: str) -> Dataset:
        """The newest state, locked until the transaction ends."""
        row = await connection.fetchrow("SELECT * FROM dataset WHERE dataset = $1 FOR UPDATE", dataset)
        if row is None:
            return EMPTY
        return Dataset(
            _version(row),
            DatasetDigest(int(row["digest_first"]), int(row["digest_second"]), row["digest_rows"]),
            row["records"],
            row["labels"],
            row["data_time"],
        )

    async def save_dataset(
        self, connection: Connection, dataset: str, state: Dataset, number: int, now: datetime
    ) -> None:
        """Keep the state; a version that is new is entered in the history."""
        version, digest = state.version, state.digest
        common = (dataset, version.n, version.digest, version.records_version, version.labels_version)
        await connection.execute(
            """INSERT INTO dataset VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
               ON CONFLICT (dataset) DO UPDATE SET n = $2, digest = $3, records_version = $4, labels_version = $5,
                 digest_first = $6, digest_second = $7, digest_rows = $8, records = $9, labels = $10, data_time = $11""",
            *common, digest.first, digest.second, digest.rows, state.records, state.labels, state.data_time,
        )  # fmt: skip
        await connection.execute(
            """INSERT INTO dataset_version VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
               ON CONFLICT (dataset, n) DO NOTHING""",
            *common, number, state.records, state.labels, state.data_time, now,
        )  # fmt: skip

    async def add_audit(self, connection: Connection, dataset: str, audit: Audit, now: datetime) -> None:
        await connection.execute(
            "INSERT INTO audit VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            dataset, audit.number, audit.verdict, audit.rows, audit.labelled, audit.duplicates, audit.quarantined,
            audit.report_uri, audit.quarantine_uri, now,
        )  # fmt: skip

    async def known_records(self, connection: Connection, dataset: str, ids: Sequence[str]) -> dict[str, bytes]:
        """Digests of the ids that were seen before."""
        query = "SELECT id, digest FROM known_record WHERE dataset = $1 AND id = ANY($2::text[])"
        return await _known(connection, query, dataset, ids)

    async def known_labels(self, connection: Connection, dataset: str, ids: Sequence[str]) -> dict[str, bytes]:
        """Digests of the newest labels of ids that have one."""
        query = "SELECT id, digest FROM known_label WHERE dataset = $1 AND id = ANY($2::text[])"
        return await _known(connection, query, dataset, ids)

    async def remember(
        self, connection: Connection, dataset: str, records: Mapping[str, bytes], labels: Mapping[str, bytes]
    ) -> None:
        """Keep the ids of a batch and the newest labels."""
        await _remember(
            connection, "INSERT INTO known_record SELECT $1, * FROM unnest($2::text[], $3::bytea[])", dataset, records
        )
        await _remember(
            connection,
            """INSERT INTO known_label SELECT $1, * FROM unnest($2::text[], $3::bytea[])
               ON CONFLICT (dataset, id) DO UPDATE SET digest = excluded.digest""",
            dataset,
            labels,
        )

    async def quarantine(
        self, connection: Connection, dataset: str, number: int, rows: Sequence[QuarantinedRow], now: datetime
    ) -> None:
        await connection.executemany(
            "INSERT INTO quarantined_row VALUES ($1, $2, $3, $4, $5, $6)",
            [(dataset, number, one.sequence, list(one.reasons), one.row, now) for one in rows],
        )

    async def versions(self, connection: Connection, dataset: str, before: int, limit: int) -> list[dict[str, Any]]:
        """Versions below ``before``, newest first."""
        rows = await connection.fetch(
            "SELECT * FROM dataset_version WHERE dataset = $1 AND n < $2 ORDER BY n DESC LIMIT $3",
            dataset, before, limit,
        )  # fmt: skip
        return [dict(row) for row in rows]

    async def quarantined(self, connection: Connection, dataset: str, before: int, limit: int) -> list[dict[str, Any]]:
        """Rows in quarantine with a sequence below ``before``, newest first."""
        rows = await connection.fetch(
            """SELECT * FROM quarantined_row WHERE dataset = $1 AND sequence < $2
                ORDER BY sequence DESC, number DESC LIMIT $3""",
            dataset, before, limit,
        )  # fmt: skip
        return [dict(row) for row in rows]

    async def audits(self, connection: Connection, dataset: str, before: int, limit: int) -> list[dict[str, Any]]:
        """Audits of batches below ``before``, newest first."""
        rows = await connection.fetch(
            "SELECT * FROM audit WHERE dataset = $1 AND number < $2 ORDER BY number DESC LIMIT $3",
            dataset, before, limit,
        )  # fmt: skip
        return [dict(row) for row in rows]


def _version(row: Any) -> DatasetVersion:
    return DatasetVersion(
        n=row["n"],
        digest=row["digest"],
        records_version=row["records_version"],
        labels_version=row["labels_version"],
    )


async def _known(connection: Connection, query: str, dataset: str, ids: Sequence[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for start in range(0, len(ids), CHUNK):
        rows = await connection.fetch(query, dataset, ids[start : start + CHUNK])
        found.update((row["id"], row["digest"]) for row in rows)
    return found


async def _remember(connection: Connection, query: str, dataset: str, digests: Mapping[str, bytes]) -> None:
    ids = list(digests)
    for start in range(0, len(ids), CHUNK):
        some = ids[start : start + CHUNK]
        await connection.execute(query, dataset, some, [digests[id] for id in some])
