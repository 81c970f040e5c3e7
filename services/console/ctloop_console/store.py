"""All SQL of the console: facts in, facts out."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime

from ctloop.events.envelope import Envelope, Event, Value
from ctloop.events.model import ModelPromoted, ModelRolledBack
from ctloop.events.training import RetrainDecided
from ctloop_console.domain.facts import Fact

Connection = Any

COLUMNS = (
    """seq, id, topic, source, subject, said_at AS "time", heard_at, loop_id, causation_id, traceparent, payload"""
)
SEQUENCE_LOCK = "SELECT pg_advisory_xact_lock(hashtext('ctloop.console.fact'))"

WANTED = """($1::text IS NULL OR subject = $1 OR subject = (SELECT dataset FROM pipeline WHERE model = $1))
            AND ($2::text IS NULL OR topic = $2) AND ($3::timestamptz IS NULL OR said_at >= $3)
            AND ($4::timestamptz IS NULL OR said_at < $4)"""
"""A model's facts are those about it and about its dataset."""

NUMBERS = """SELECT d.id, (SELECT count(*) FROM fact e WHERE e.topic = $1 AND e.subject = d.subject
                              AND (e.said_at, e.id) <= (d.said_at, d.id)) AS number
               FROM fact d WHERE d.topic = $1 AND d.id = ANY($2::uuid[])"""


class Count(Value):
    """Facts of one topic."""

    topic: str
    facts: int
    last_said: AwareDatetime


class Latency(Value):
    """Seconds between two things, over the newest facts."""

    name: str
    facts: int
    p50_seconds: float
    p95_seconds: float
    max_seconds: float


class Filter(Value):
    """Which facts a reader wants; None: all."""

    model: str | None = None
    topic: str | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None


class ConsoleStore:
    """Facts, by what is asked of them."""

    async def add(self, connection: Connection, heard: Sequence[tuple[Event, Envelope]], now: datetime) -> None:
        """Keep facts; one that is here already is left as it is."""
        await connection.execute(SEQUENCE_LOCK)
        rows = [_row(event, envelope) for event, envelope in heard]
        columns = list(zip(*rows, strict=True))
        added = await connection.fetch(
            """INSERT INTO fact (id, source, topic, subject, said_at, heard_at, loop_id, causation_id, traceparent,
                                 run_id, version, payload)
               SELECT id, source, topic, subject, said_at, $12, loop_id, causation_id, traceparent, run_id, version,
                      payload
                 FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::uuid[],
                             $7::uuid[], $8::text[], $9::uuid[], $10::integer[], $11::text[])
                   AS u(id, source, topic, subject, said_at, loop_id, causation_id, traceparent, run_id, version,
                        payload)
               ON CONFLICT DO NOTHING RETURNING topic, said_at""",
            *columns, now,
        )  # fmt: skip
        for row in added:
            await connection.execute(
                """INSERT INTO fact_count VALUES ($1, 1, $2) ON CONFLICT (topic)
                   DO UPDATE SET facts = fact_count.facts + 1,
                     last_said = greatest(fact_count.last_said, excluded.last_said)""", row["topic"], row["said_at"]
            )  # fmt: skip

    async def last(self, connection: Connection) -> int:
        """The newest seq; 0 when there is no fact."""
        return await connection.fetchval("SELECT coalesce(max(seq), 0) FROM fact")

    async def after(self, connection: Connection, seq: int, want: Filter, limit: int) -> tuple[Fact, ...]:
        """Facts after a cursor, oldest first."""
        return await self._select(connection, f"seq > $5 AND {WANTED} ORDER BY seq LIMIT $6", want, seq, limit)

    async def newest(self, connection: Connection, want: Filter, limit: int) -> tuple[Fact, ...]:
        """The newest facts, oldest first."""
        found = await self._select(connection, f"{WANTED} ORDER BY seq DESC LIMIT $5", want, limit)
        return tuple(reversed(found))

    async def _select(self, connection: Connection, where: str, want: Filter, *rest: Any) -> tuple[Fact, ...]:
        rows = await connection.fetch(
            f"SELECT {COLUMNS} FROM fact WHERE {where}",  # noqa: S608 constants of this file only
            want.model, want.topic, want.since, want.until, *rest,
        )  # fmt: skip
        return _facts(rows)

    async def decisions(
        self, connection: Connection, model: str | None, before: int | None, limit: int
    ) -> tuple[Fact, ...]:
        """Decisions to retrain, newest first, below a cursor."""
        rows = await connection.fetch(
            f"""SELECT {COLUMNS} FROM fact WHERE topic = $1 AND ($2::text IS NULL OR subject = $2)
                AND ($3::bigint IS NULL OR seq < $3) ORDER BY seq DESC LIMIT $4""",  # noqa: S608
            RetrainDecided.topic, model, before, limit,
        )  # fmt: skip
        return _facts(rows)

    async def numbers(self, connection: Connection, decisions: Sequence[UUID]) -> dict[UUID, int]:
        """The number of each decision among its model's, from 1, by when it was said."""
        rows = await connection.fetch(
            NUMBERS,
            RetrainDecided.topic,
            list(decisions),
        )
        return {row["id"]: row["number"] for row in rows}

    async def decision_numbered(self, connection: Connection, model: str, number: int) -> UUID | None:
        """The loop id of a model's n-th decision."""
        return await connection.fetchval(
            "SELECT id FROM fact WHERE topic = $1 AND subject = $2 ORDER BY said_at, id OFFSET $3 LIMIT 1",
            RetrainDecided.topic, model, number - 1,
        )  # fmt: skip

    async def of_loops(self, connection: Connection, loops: Sequence[UUID]) -> tuple[Fact, ...]:
        """Every fact of some loops, their decisions included."""
        rows = await connection.fetch(
            f"SELECT {COLUMNS} FROM fact WHERE loop_id = ANY($1::uuid[]) OR id = ANY($1::uuid[])",  # noqa: S608
            list(loops),
        )
        return _facts(rows)

    async def promoted_by_hand(self, connection: Connection, runs: Sequence[UUID]) -> tuple[Fact, ...]:
        """Promotions of some runs that a person asked for: they carry no loop."""
        rows = await connection.fetch(
            f"SELECT {COLUMNS} FROM fact WHERE run_id = ANY($1::uuid[]) AND loop_id IS NULL AND topic = $2",  # noqa: S608
            list(runs),
            ModelPromoted.topic,
        )
        return _facts(rows)

    async def by_ids(self, connection: Connection, ids: Sequence[UUID]) -> tuple[Fact, ...]:
        """Facts by their ids, as far as they were heard."""
        rows = await connection.fetch(f"SELECT {COLUMNS} FROM fact WHERE id = ANY($1::uuid[])", list(ids))  # noqa: S608
        return _facts(rows)

    async def of_run(self, connection: Connection, run_id: UUID) -> tuple[Fact, ...]:
        """Every fact that names a run."""
        rows = await connection.fetch(f"SELECT {COLUMNS} FROM fact WHERE run_id = $1", run_id)  # noqa: S608
        return _facts(rows)

    async def run_of(self, connection: Connection, model: str, version: int) -> UUID | None:
        """The run that made a promoted version."""
        return await connection.fetchval(
            "SELECT run_id FROM fact WHERE subject = $1 AND version = $2 AND topic = $3 LIMIT 1",
            model, version, ModelPromoted.topic,
        )  # fmt: skip

    async def champion(self, connection: Connection, model: str) -> tuple[int, UUID] | None:
        """Version and run of the newest move of the pointer that was heard."""
        row = await connection.fetchrow(
            """SELECT version, run_id FROM fact WHERE subject = $1 AND topic = ANY($2::text[])
               ORDER BY (payload::jsonb ->> 'epoch')::integer DESC LIMIT 1""",
            model, [ModelPromoted.topic, ModelRolledBack.topic],
        )  # fmt: skip
        return (row["version"], row["run_id"]) if row else None

    async def counts(self, connection: Connection) -> tuple[Count, ...]:
        """How many facts of each topic were heard."""
        rows = await connection.fetch("SELECT * FROM fact_count ORDER BY topic")
        return tuple(Count.model_validate(dict(row)) for row in rows)

    async def latencies(self, connection: Connection, newest: int) -> tuple[Latency, ...]:
        """How long from said to heard here, and from each kind of cause to its effect, over the newest facts."""
        rows = await connection.fetch(
            """WITH f AS (SELECT * FROM fact ORDER BY seq DESC LIMIT $1),
                    s AS (SELECT 'said to heard' AS name, extract(epoch FROM heard_at - said_at) AS x FROM f
                          UNION ALL
                          SELECT c.topic || ' to ' || f.topic, extract(epoch FROM f.said_at - c.said_at)
                            FROM f JOIN fact c ON c.id = f.causation_id)
               SELECT name, count(*) AS facts,
                      percentile_cont(0.5) WITHIN GROUP (ORDER BY x) AS p50_seconds,
                      percentile_cont(0.95) WITHIN GROUP (ORDER BY x) AS p95_seconds, max(x) AS max_seconds
                 FROM s GROUP BY name ORDER BY name""", newest
        )  # fmt: skip
        return tuple(Latency.model_validate(dict(row)) for row in rows)


def _row(event: Event, envelope: Envelope) -> tuple[Any, ...]:
    return (
        envelope.id,
        envelope.source,
        event.topic,
        envelope.subject,
        envelope.time,
        envelope.loop_id,
        envelope.causation_id,
        envelope.traceparent,
        getattr(event, "run_id", None),
        getattr(event, "version", None) if isinstance(getattr(event, "version", None), int) else None,
        event.model_dump_json(),
    )


def _facts(rows: Sequence[Any]) -> tuple[Fact, ...]:
    return tuple(Fact.model_validate(dict(row)) for row in rows)
