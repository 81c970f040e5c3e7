"""All SQL of ingestion."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from ctloop.events.data import DataArrived
from ctloop.events.manifest import RecordSpec
from ctloop.events.values import ObjectRef
from ctloop.platform.delivery.retention import Kept, since
from ctloop.platform.pipelines import PREDICTIONS, dataset_known, manifests_over
from ctloop_ingestion.domain.coalescing import OpenBatch

Connection = Any
IN_FLIGHT = timedelta(seconds=30)
KEEPS = (
    Kept("door_request", since("begun")),
    Kept(
        "arrival",
        """EXISTS (SELECT 1 FROM batch b WHERE b.dataset = t.dataset AND b.number = t.number AND b.uri IS NOT NULL
                      AND b.ended < clock_timestamp() - $1::interval)""",
    ),
)
"""Requests as long as they may be sent again, the ledger's rows as long as their records may come again."""


@dataclass(frozen=True)
class NewArrival:
    """An arrival that has its batch."""

    number: int
    id: UUID
    source: str
    arrived: datetime
    format: str
    rows: int
    size: int
    body: bytes


@dataclass(frozen=True)
class KeptArrival:
    """An arrival as its batch is staged from it."""

    seq: int
    id: UUID
    arrived: datetime
    format: str
    body: bytes


@dataclass(frozen=True)
class DoorRequest:
    """What is known of a request with this key; ``fresh``: it is ours to carry out."""

    digest: str
    receipts: list[dict[str, Any]] | None
    fresh: bool


class IngestionStore:
    """Reads and writes rows inside the transaction it is given."""

    async def open_batch(self, connection: Connection, dataset: str) -> OpenBatch:
        """The open batch, locked until the transaction ends."""
        row = await connection.fetchrow(
            """INSERT INTO open_batch (dataset) VALUES ($1) ON CONFLICT (dataset) DO UPDATE SET dataset = excluded.dataset
               RETURNING number, rows, bytes, arrivals""",
            dataset,
        )
        return OpenBatch(row["number"], row["rows"], row["bytes"], row["arrivals"])

    async def save_open(self, connection: Connection, dataset: str, batch: OpenBatch) -> None:
        await connection.execute(
            "UPDATE open_batch SET number = $2, rows = $3, bytes = $4, arrivals = $5 WHERE dataset = $1",
            dataset, batch.number, batch.rows, batch.bytes, batch.arrivals,
        )  # fmt: skip

    async def add_arrivals(self, connection: Connection, dataset: str, arrivals: Sequence[NewArrival]) -> None:
        """Enter arrivals in the ledger, in order, and keep their bodies until they are staged."""
        await connection.execute(
            """WITH given AS (
                 SELECT * FROM unnest($2::bigint[], $3::uuid[], $4::text[], $5::timestamptz[], $6::text[], $7::bigint[],
                                      $8::bigint[], $9::bytea[])
                   WITH ORDINALITY AS g(number, id, source, arrived, format, rows, bytes, body, place)),
               entered AS (
                 INSERT INTO arrival (dataset, number, id, source, arrived, format, rows, bytes)
                 SELECT $1, number, id, source, arrived, format, rows, bytes FROM given ORDER BY place
                 RETURNING seq, source, id)
               INSERT INTO arrival_body (seq, body)
               SELECT seq, body FROM entered JOIN given USING (source, id)""",
            dataset,
            [one.number for one in arrivals],
            [one.id for one in arrivals],
            [one.source for one in arrivals],
            [one.arrived for one in arrivals],
            [one.format for one in arrivals],
            [one.rows for one in arrivals],
            [one.size for one in arrivals],
            [one.body for one in arrivals],
        )

    async def arrivals_of(self, connection: Connection, dataset: str, number: int) -> tuple[KeptArrival, ...]:
        """The arrivals of a batch with their bodies, in order."""
        rows = await connection.fetch(
            """SELECT seq, id, arrived, format, body FROM arrival JOIN arrival_body USING (seq)
                WHERE dataset = $1 AND number = $2 ORDER BY seq""",
            dataset, number,
        )  # fmt: skip
        return tuple(KeptArrival(**row) for row in rows)

    async def landed(
        self, connection: Connection, dataset: str, number: int, ref: ObjectRef, rows: int, labels: int, now: datetime
    ) -> None:
        """The batch is an object now; the bodies go."""
        await connection.execute(
            """INSERT INTO batch (dataset, number, uri, sha256, bytes, rows, labels, ended)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8)""",
            dataset, number, ref.uri, ref.sha256, ref.bytes, rows, labels, now,
        )  # fmt: skip
        await connection.execute(
            "DELETE FROM arrival_body USING arrival a WHERE a.seq = arrival_body.seq AND a.dataset = $1 AND a.number = $2",
            dataset, number,
        )  # fmt: skip

    async def could_not_land(self, connection: Connection, dataset: str, number: int, why: str, now: datetime) -> None:
        """Set a batch aside; its arrivals and bodies stay."""
        await connection.execute(
            "INSERT INTO batch (dataset, number, problem, ended) VALUES ($1, $2, $3, $4)", dataset, number, why, now
        )

    async def records(self, connection: Connection, dataset: str) -> tuple[RecordSpec, ...]:
        """The record classes over a dataset; none for predictions.

        Raises:
            DatasetNotYetKnown
        """
        if dataset.endswith(PREDICTIONS):
            return ()
        return tuple(manifest.record for manifest in await manifests_over(connection, dataset))

    async def known(self, connection: Connection, dataset: str) -> bool:
        return await dataset_known(connection, dataset)

    async def datasets(self, connection: Connection) -> list[dict[str, Any]]:
        """Every dataset that can be sent to, or has landed, with how much has."""
        rows = await connection.fetch(
            """SELECT d.dataset, coalesce(b.batches, 0) AS batches, coalesce(b.rows, 0)::bigint AS rows, b.last_landed,
                      coalesce(o.arrivals, 0) AS waiting_arrivals
                 FROM (SELECT dataset FROM pipeline UNION SELECT dataset FROM open_batch) d
                 LEFT JOIN (SELECT dataset, count(*) AS batches, sum(rows) AS rows, max(ended) AS last_landed
                              FROM batch WHERE uri IS NOT NULL GROUP BY dataset) b USING (dataset)
                 LEFT JOIN open_batch o USING (dataset) ORDER BY d.dataset"""
        )
        return [dict(row) for row in rows]

    async def backlog(self, connection: Connection) -> tuple[int, dict[int, int]]:
        """Bytes of bodies that wait to be staged (batches that were set aside wait for nothing), and the next offset of
        each partition of arrivals."""
        waiting = await connection.fetchval(
            """SELECT coalesce(sum(octet_length(body)), 0)::bigint FROM arrival_body JOIN arrival a USING (seq)
                WHERE NOT EXISTS (SELECT 1 FROM batch b WHERE b.dataset = a.dataset AND b.number = a.number)"""
        )
        rows = await connection.fetch(
            "SELECT part, next_offset FROM consumer_offset WHERE topic = $1", DataArrived.topic
        )
        return waiting, {row["part"]: row["next_offset"] for row in rows}

    async def begin_request(
        self, connection: Connection, dataset: str, key: str, digest: str, now: datetime
    ) -> DoorRequest:
        """Enter a request at the door, or find the one of this key. One whose sender died may be carried out again."""
        mine = await connection.fetchval(
            """INSERT INTO door_request AS d (dataset, key, digest, begun) VALUES ($1, $2, $3, $4)
               ON CONFLICT (dataset, key) DO UPDATE SET begun = excluded.begun
                 WHERE d.receipts IS NULL AND d.digest = excluded.digest AND d.begun < $5 RETURNING digest""",
            dataset, key, digest, now, now - IN_FLIGHT,
        )  # fmt: skip
        if mine is not None:
            return DoorRequest(digest, None, fresh=True)
        row = await connection.fetchrow(
            "SELECT digest, receipts FROM door_request WHERE dataset = $1 AND key = $2", dataset, key
        )
        return DoorRequest(row["digest"], json.loads(row["receipts"]) if row["receipts"] else None, fresh=False)

    async def end_request(self, connection: Connection, dataset: str, key: str, receipts: list[dict[str, Any]]) -> None:
        await connection.execute(
            "UPDATE door_request SET receipts = $3 WHERE dataset = $1 AND key = $2", dataset, key, json.dumps(receipts)
        )

    async def abandon_request(self, connection: Connection, dataset: str, key: str) -> None:
        """The outcome is unknown: the same key may try again at once."""
        await connection.execute(
            "UPDATE door_request SET begun = begun - $3 WHERE dataset = $1 AND key = $2 AND receipts IS NULL",
            dataset, key, IN_FLIGHT,
        )  # fmt: skip
