"""The SQL of validation's model half: candidates, and the champion they are judged against. (Tables: schema.sql.)"""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime

from ctloop.events.envelope import Value
from ctloop.events.model import ModelValidated, Promotion
from ctloop.events.training import ModelTrained
from ctloop.events.values import DatasetVersion, ObjectRef, Signature, Verdict, Window

Connection = Any


class Champion(Value):
    """What a candidate has to be as good as."""

    epoch: int
    version: int
    run_id: UUID
    onnx: ObjectRef
    signature: Signature
    training_window: Window
    dataset_version: DatasetVersion

    @classmethod
    def of(cls, fact: Promotion) -> "Champion":
        return cls.model_validate(fact.model_dump())


class Candidate(Value):
    """A trained model and the loop it belongs to."""

    trained: ModelTrained
    loop_id: UUID | None
    trained_at: AwareDatetime


class ModelStore:
    """Reads and writes rows inside the transaction it is given."""

    async def lock(self, connection: Connection, model: str) -> None:
        """One model's candidates and champion change in one transaction at a time."""
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 11))", f"model|{model}")

    async def add_candidate(
        self, connection: Connection, trained: ModelTrained, loop_id: UUID | None, now: datetime
    ) -> None:
        await connection.execute(
            """INSERT INTO candidate (run_id, model, fact, loop_id, trained_at) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT DO NOTHING""",
            trained.run_id,
            trained.model,
            trained.model_dump_json(),
            loop_id,
            now,
        )

    async def champion(self, connection: Connection, model: str) -> Champion | None:
        found = await connection.fetchval("SELECT champion FROM champion WHERE model = $1", model)
        return None if found is None else Champion.model_validate_json(found)

    async def move_champion(self, connection: Connection, model: str, champion: Champion) -> bool:
        """Keep the newest epoch; False: an older one came late."""
        done = await connection.execute(
            """INSERT INTO champion (model, epoch, champion) VALUES ($1, $2, $3)
               ON CONFLICT (model) DO UPDATE SET epoch = excluded.epoch, champion = excluded.champion
               WHERE champion.epoch < excluded.epoch""",
            model,
            champion.epoch,
            champion.model_dump_json(),
        )
        return done.endswith(" 1")

    async def promoted(self, connection: Connection, run_id: UUID) -> None:
        """A candidate became champion: it is decided."""
        await connection.execute("UPDATE candidate SET promoted = true WHERE run_id = $1", run_id)

    async def judge(self, connection: Connection, said: ModelValidated) -> None:
        """Keep the newest verdict on a candidate."""
        await connection.execute(
            """UPDATE candidate SET verdict = $2, champion_epoch = $3
                WHERE run_id = $1 AND coalesce(champion_epoch, -1) <= $3""",
            said.run_id,
            said.verdict.value,
            said.champion_epoch,
        )

    async def waiting(self, connection: Connection, model: str, epoch: int) -> Candidate | None:
        """The newest candidate that passed against an earlier epoch and is not decided yet; it supersedes the others."""
        row = await connection.fetchrow(
            """SELECT fact, loop_id, trained_at FROM candidate
                WHERE model = $1 AND NOT promoted AND verdict = $3 AND champion_epoch < $2
                ORDER BY trained_at DESC, run_id LIMIT 1""",
            model,
            epoch,
            Verdict.PASSED.value,
        )
        if row is None:
            return None
        trained = ModelTrained.model_validate_json(row["fact"])
        return Candidate(trained=trained, loop_id=row["loop_id"], trained_at=row["trained_at"])
