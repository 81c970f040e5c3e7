"""All SQL of the registry: pipelines, versions with their evidence, the champion pointer and its history."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from ctloop.events.errors import TransientError
from ctloop.events.manifest import Manifest
from ctloop.events.model import (
    DeploymentFailed,
    ModelDeployed,
    ModelPromoted,
    ModelValidated,
    Promotion,
)
from ctloop.events.pointer import ChampionPointer
from ctloop_registry.domain.pointer import Move, Outcome
from ctloop_registry.store_rows import Deployment, Evidence, Moved, PointerMove, Release

Connection = Any


class PointerMoved(TransientError):
    """Another transaction moved the pointer first."""


class PipelineTable:
    """Pipeline versions: what was released, newest in force."""

    async def in_force(self, connection: Connection, model: str) -> Release | None:
        """The newest release of a model."""
        row = await connection.fetchrow(
            """SELECT model, pipeline_version, digest, dataset, released_at FROM pipeline_release
               WHERE model = $1 ORDER BY pipeline_version DESC LIMIT 1""", model
        )  # fmt: skip
        return Release.model_validate(dict(row)) if row else None

    async def over_dataset(self, connection: Connection, dataset: str) -> tuple[Manifest, ...]:
        """The manifests in force over a dataset, the model's own included."""
        rows = await connection.fetch(
            """SELECT manifest FROM (SELECT DISTINCT ON (model) model, dataset, manifest FROM pipeline_release
               ORDER BY model, pipeline_version DESC) newest WHERE dataset = $1 ORDER BY model""", dataset
        )  # fmt: skip
        return tuple(Manifest.model_validate_json(row["manifest"]) for row in rows)

    async def manifest(self, connection: Connection, digest: str) -> Manifest | None:
        """A manifest that was ever released, by its digest."""
        text = await connection.fetchval("SELECT manifest FROM pipeline_release WHERE digest = $1 LIMIT 1", digest)
        return Manifest.model_validate_json(text) if text else None

    async def newest(self, connection: Connection, after: str, limit: int) -> tuple[Release, ...]:
        """The pipelines in force, by model name, after a name."""
        rows = await connection.fetch(
            """SELECT DISTINCT ON (model) model, pipeline_version, digest, dataset, released_at FROM pipeline_release
               WHERE model > $1 ORDER BY model, pipeline_version DESC LIMIT $2""", after, limit
        )  # fmt: skip
        return tuple(Release.model_validate(dict(row)) for row in rows)

    async def add(self, connection: Connection, manifest: Manifest, number: int, now: datetime) -> None:
        """Write a release."""
        await connection.execute(
            "INSERT INTO pipeline_release VALUES ($1, $2, $3, $4, $5, $6)",
            manifest.model, number, manifest.digest, manifest.record.dataset, manifest.model_dump_json(), now,
        )  # fmt: skip

    async def next_number(self, connection: Connection, model: str) -> int:
        """The next pipeline version; the model's row stays locked until the end of the transaction."""
        return await connection.fetchval(
            """INSERT INTO registered_model (model, last_pipeline) VALUES ($1, 1) ON CONFLICT (model)
               DO UPDATE SET last_pipeline = registered_model.last_pipeline + 1 RETURNING last_pipeline""", model
        )  # fmt: skip


class VersionTable:
    """Versions and the judgements they have."""

    async def number(self, connection: Connection, said: ModelValidated, now: datetime) -> int:
        """The version of a run: the one it has, else the next."""
        known = await connection.fetchval(
            "SELECT version FROM model_version WHERE model = $1 AND run_id = $2", said.model, said.run_id
        )
        if known is not None:
            return known
        version = await connection.fetchval(
            "UPDATE registered_model SET last_version = last_version + 1 WHERE model = $1 RETURNING last_version",
            said.model,
        )
        await connection.execute(
            "INSERT INTO model_version VALUES ($1, $2, $3, $4, $5)",
            said.model, version, said.run_id, said.onnx.sha256, now,
        )  # fmt: skip
        return version

    async def add_evidence(self, connection: Connection, row: Evidence, judged_at: datetime) -> None:
        """Keep a judgement."""
        await connection.execute(
            "INSERT INTO evidence VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            row.id, row.model, row.version, row.said.verdict.value, row.said.champion_epoch, row.outcome.value,
            row.said.model_dump_json(), judged_at, row.recorded_at, row.loop_id,
        )  # fmt: skip

    async def evidence_of(self, connection: Connection, model: str, version: int) -> tuple[Evidence, ...]:
        """Every judgement of a version, newest first."""
        rows = await connection.fetch(
            """SELECT id, model, version, outcome, fact, recorded_at, loop_id FROM evidence
               WHERE model = $1 AND version = $2 ORDER BY recorded_at DESC, id""", model, version
        )  # fmt: skip
        return tuple(_evidence(row) for row in rows)

    async def newest(self, connection: Connection, model: str, before: int | None, limit: int) -> tuple[Evidence, ...]:
        """The last judgement of each version, newest version first, below a number."""
        rows = await connection.fetch(
            """SELECT DISTINCT ON (version) id, model, version, outcome, fact, recorded_at, loop_id FROM evidence
               WHERE model = $1 AND ($2::integer IS NULL OR version < $2)
               ORDER BY version DESC, recorded_at DESC LIMIT $3""", model, before, limit
        )  # fmt: skip
        return tuple(_evidence(row) for row in rows)


class PointerTable:
    """The champion pointer, its history, and what replicas said of it."""

    async def lock(self, connection: Connection, model: str) -> None:
        """Hold the model's row until the end of the transaction: versions and epochs of one model go one by one."""
        await connection.execute("INSERT INTO registered_model (model) VALUES ($1) ON CONFLICT DO NOTHING", model)
        await connection.execute("SELECT 1 FROM registered_model WHERE model = $1 FOR UPDATE", model)

    async def read(self, connection: Connection, model: str) -> ChampionPointer | None:
        """The pointer now."""
        row = await connection.fetchrow(
            "SELECT fact, event_id, loop_id, traceparent, since FROM champion WHERE model = $1", model
        )
        return _pointer(row) if row else None

    async def all(self, connection: Connection, after: str, limit: int) -> tuple[ChampionPointer, ...]:
        """The pointers of all models, by name, after a name."""
        rows = await connection.fetch(
            """SELECT fact, event_id, loop_id, traceparent, since FROM champion
               WHERE model > $1 ORDER BY model LIMIT $2""", after, limit
        )  # fmt: skip
        return tuple(_pointer(row) for row in rows)

    async def at(self, connection: Connection, model: str, when: datetime) -> ChampionPointer | None:
        """What was live at a moment of the wall clock."""
        row = await connection.fetchrow(
            """SELECT fact, event_id, loop_id, NULL AS traceparent, since FROM champion_history
               WHERE model = $1 AND since <= $2 ORDER BY epoch DESC LIMIT 1""", model, when
        )  # fmt: skip
        return _pointer(row) if row else None

    async def move(self, connection: Connection, move: PointerMove) -> None:
        """Move the pointer from the epoch before to the fact's, and write the history.

        Raises:
            PointerMoved: the pointer is not at the epoch before.
        """
        fact, text = move.fact, move.fact.model_dump_json()
        moved = await connection.fetchval(
            """INSERT INTO champion AS c (model, version, epoch, evidence, fact, event_id, loop_id, traceparent, since)
               SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9
                WHERE $3 = 1 OR EXISTS (SELECT 1 FROM champion WHERE model = $1)
               ON CONFLICT (model) DO UPDATE SET version = excluded.version, epoch = c.epoch + 1,
                 evidence = excluded.evidence, fact = excluded.fact, event_id = excluded.event_id,
                 loop_id = excluded.loop_id, traceparent = excluded.traceparent, since = excluded.since
               WHERE c.epoch = $3 - 1 RETURNING epoch""",
            fact.model, fact.version, fact.epoch, move.evidence, text, move.event_id, move.loop_id, move.traceparent,
            move.since,
        )  # fmt: skip
        if moved is None:
            raise PointerMoved(f"the champion of {fact.model!r} is no longer at epoch {fact.epoch - 1}")
        await connection.execute(
            "INSERT INTO champion_history VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            fact.model, fact.epoch, fact.version, fact.previous_version, move.move.value, move.moved_by, move.reason,
            move.evidence, text, move.event_id, move.loop_id, move.since,
        )  # fmt: skip

    async def history(
        self, connection: Connection, model: str, after: int = 0, limit: int = 10_000
    ) -> tuple[Moved, ...]:
        """The epochs of a model after one, oldest first."""
        rows = await connection.fetch(
            """SELECT model, epoch, version, previous_version, move, moved_by, reason, evidence, event_id, loop_id, since
               FROM champion_history WHERE model = $1 AND epoch > $2 ORDER BY epoch LIMIT $3""", model, after, limit
        )  # fmt: skip
        return tuple(Moved.model_validate(dict(row)) for row in rows)

    async def promotion_of(self, connection: Connection, model: str, version: int) -> tuple[ModelPromoted, UUID] | None:
        """The last promotion of a version and the evidence it rests on."""
        row = await connection.fetchrow(
            """SELECT fact, evidence FROM champion_history WHERE model = $1 AND version = $2 AND move = 'promoted'
               ORDER BY epoch DESC LIMIT 1""", model, version
        )  # fmt: skip
        return (ModelPromoted.model_validate_json(row["fact"]), row["evidence"]) if row else None

    async def deployed(self, connection: Connection, event: ModelDeployed) -> None:
        """A replica answers with an epoch."""
        await connection.execute(
            """INSERT INTO deployment (model, epoch, replica, version, first_answer_at, load_seconds, golden)
               VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (model, epoch, replica) DO UPDATE
               SET first_answer_at = excluded.first_answer_at, load_seconds = excluded.load_seconds,
                 golden = excluded.golden""",
            event.model, event.epoch, event.replica, event.version, event.first_answer_at, event.load_seconds,
            event.golden,
        )  # fmt: skip

    async def failed(self, connection: Connection, event: DeploymentFailed, said_at: datetime) -> None:
        """A replica could not take an epoch."""
        await connection.execute(
            """INSERT INTO deployment (model, epoch, replica, version, failed_at, failure) VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT (model, epoch, replica) DO UPDATE
               SET failed_at = excluded.failed_at, failure = excluded.failure""",
            event.model, event.epoch, event.replica, event.version, said_at, event.reason,
        )  # fmt: skip

    async def deployments(self, connection: Connection, model: str, epoch: int) -> tuple[Deployment, ...]:
        """What replicas said of an epoch."""
        rows = await connection.fetch(
            "SELECT * FROM deployment WHERE model = $1 AND epoch = $2 ORDER BY replica", model, epoch
        )
        return tuple(Deployment.model_validate(dict(row)) for row in rows)


class RegistryStore:
    """The registry's tables, by what they are about."""

    def __init__(self) -> None:
        self.pipelines = PipelineTable()
        self.versions = VersionTable()
        self.pointer = PointerTable()


def _evidence(row: Any) -> Evidence:
    return Evidence(
        id=row["id"],
        model=row["model"],
        version=row["version"],
        outcome=Outcome(row["outcome"]),
        said=ModelValidated.model_validate_json(row["fact"]),
        recorded_at=row["recorded_at"],
        loop_id=row["loop_id"],
    )


def _pointer(row: Any) -> ChampionPointer:
    promoted = Promotion.model_validate_json(row["fact"])
    rest = {name: row[name] for name in ("event_id", "loop_id", "traceparent", "since")}
    return ChampionPointer.model_validate({**promoted.model_dump(), **rest})


def moves(history: Sequence[Moved]) -> tuple[tuple[int, Move], ...]:
    """The history as (version, move)."""
    return tuple((one.version, one.move) for one in history)
