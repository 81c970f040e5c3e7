"""All SQL of training: the policy's state, datasets, decisions and runs."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from ctloop.events.data import DataValidated
from ctloop.events.envelope import Value
from ctloop.events.training import ModelTrained, RetrainDecided, TrainingFailed
from ctloop.events.values import DatasetVersion, EvaluatedNode
from ctloop.policy.state import PolicyState
from ctloop_training.domain.outcomes import Outcome

Connection = Any

KEPT_NOT_ACTED = 1_000
"""Newest decisions of a model that were not acted on; what was acted on is kept for ever."""

RunState = Literal["open", "trained", "failed", "passed", "refused", "promoted"]


class Plan(Value):
    """What a run of a decision reads and why; beside what RetrainDecided says."""

    since: AwareDatetime
    max_rows: int | None = None


class KnownDataset(Value):
    """The newest version of a dataset."""

    version: DatasetVersion
    data_time: AwareDatetime | None
    labelled: int = 0
    """Labelled rows, all in all."""


class StoredDecision(Value):
    """A decision as it is kept and shown."""

    id: UUID
    model: str
    outcome: Outcome
    trigger: str | None
    reason: str
    tree: EvaluatedNode
    data_time: AwareDatetime
    decided_at: AwareDatetime
    run_id: UUID | None = None
    seq: int = Field(default=0, description="Cursor: rises with each decision kept.")
    fact: RetrainDecided | None = None
    plan: Plan | None = None


class LastRun(Value):
    """The newest run of a model."""

    id: UUID
    state: RunState
    asked_at: AwareDatetime
    failed: TrainingFailed | None = None


class JudgedRun(Value):
    """The decision a run is of."""

    decision_id: UUID
    data_time: AwareDatetime


class StoredRun(Value):
    """A run as it is shown."""

    id: UUID
    decision_id: UUID
    model: str
    state: RunState
    data_time: AwareDatetime
    asked_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    trained: ModelTrained | None = None
    failed: TrainingFailed | None = None
    attempt: int = 0
    progress: Mapping[str, Any] = Field(default_factory=dict, description="Stage, trial, trials, best value.")


class TrainingStore:
    """Reads and writes rows inside the transaction it is given."""

    async def state(self, connection: Connection, model: str) -> PolicyState:
        """The policy's state of a model, locked until the transaction ends."""
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 7))", f"policy|{model}")
        found = await connection.fetchval("SELECT state FROM policy_state WHERE model = $1", model)
        return PolicyState() if found is None else PolicyState.from_json(found)

    async def save_state(self, connection: Connection, model: str, state: PolicyState, now: datetime) -> None:
        await connection.execute(
            """INSERT INTO policy_state (model, state, updated) VALUES ($1, $2, $3)
               ON CONFLICT (model) DO UPDATE SET state = excluded.state, updated = excluded.updated""",
            model,
            state.to_json(),
            now,
        )

    async def keep_version(self, connection: Connection, event: DataValidated) -> None:
        """Remember the newest version of a dataset, and count its labels."""
        await connection.execute(
            """INSERT INTO dataset (dataset, n, version, data_time, labelled) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (dataset) DO UPDATE SET labelled = dataset.labelled + excluded.labelled,
                 version = CASE WHEN dataset.n <= excluded.n THEN excluded.version ELSE dataset.version END,
                 n = greatest(dataset.n, excluded.n), data_time = greatest(dataset.data_time, excluded.data_time)""",
            event.dataset,
            event.version.n,
            event.version.model_dump_json(),
            event.data_time,
            event.labelled,
        )

    async def dataset(self, connection: Connection, dataset: str) -> KnownDataset | None:
        """The newest version of a dataset; None: no batch of it was validated yet."""
        row = await connection.fetchrow("SELECT version, data_time, labelled FROM dataset WHERE dataset = $1", dataset)
        if row is None:
            return None
        version = DatasetVersion.model_validate_json(row["version"])
        return KnownDataset(version=version, data_time=row["data_time"], labelled=row["labelled"])

    async def add_decision(self, connection: Connection, decision: StoredDecision, cause: UUID) -> bool:
        """Keep a decision; False: this cause has led to one before."""
        done = await connection.execute(
            """INSERT INTO decision (id, model, cause, outcome, trigger, reason, tree, data_time, decided_at, fact, plan,
                                     run_id)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING""",
            decision.id, decision.model, cause, decision.outcome.value, decision.trigger, decision.reason,
            decision.tree.model_dump_json(), decision.data_time, decision.decided_at,
            decision.fact and decision.fact.model_dump_json(), decision.plan and decision.plan.model_dump_json(),
            decision.run_id,
        )  # fmt: skip
        await connection.execute(
            """DELETE FROM decision WHERE model = $1 AND outcome <> 'acted' AND seq <= (
                 SELECT seq FROM decision WHERE model = $1 AND outcome <> 'acted' ORDER BY seq DESC OFFSET $2 LIMIT 1)""",
            decision.model,
            KEPT_NOT_ACTED,
        )
        return done.endswith(" 1")

    async def forget_last_declined(self, connection: Connection, model: str) -> None:
        """Let the decision not to train that comes take the place of the last one; decisions to train stay."""
        await connection.execute(
            """DELETE FROM decision WHERE outcome = 'declined'
                AND seq = (SELECT seq FROM decision WHERE model = $1 ORDER BY seq DESC LIMIT 1)""",
            model,
        )

    async def approve(self, connection: Connection, id: UUID, run_id: UUID) -> bool:
        """A person acts on a proposal, once."""
        done = await connection.execute(
            "UPDATE decision SET outcome = 'acted', run_id = $2 WHERE id = $1 AND outcome IN ('proposed', 'watched')",
            id,
            run_id,
        )
        return done.endswith(" 1")

    async def decision(self, connection: Connection, id: UUID) -> StoredDecision | None:
        row = await connection.fetchrow("SELECT * FROM decision WHERE id = $1", id)
        return None if row is None else _decision(row)

    async def decisions(
        self, connection: Connection, model: str, *, outcome: str | None, before: int | None, limit: int
    ) -> tuple[StoredDecision, ...]:
        """Newest first, below a seq."""
        rows = await connection.fetch(
            """SELECT * FROM decision WHERE model = $1 AND ($2::text IS NULL OR outcome = $2)
                 AND ($3::bigint IS NULL OR seq < $3)
               ORDER BY seq DESC LIMIT $4""",
            model,
            outcome,
            before,
            limit,
        )
        return tuple(_decision(row) for row in rows)

    async def add_run(self, connection: Connection, fact: RetrainDecided, run_id: UUID, now: datetime) -> None:
        await connection.execute(
            """INSERT INTO run (id, decision_id, model, state, data_time, asked_at) VALUES ($1, $2, $3, 'open', $4, $5)
               ON CONFLICT DO NOTHING""",
            run_id,
            fact.decision_id,
            fact.model,
            fact.data_time,
            now,
        )

    async def end_run(self, connection: Connection, fact: ModelTrained | TrainingFailed, now: datetime) -> None:
        """What the run ended in."""
        await connection.execute(
            "UPDATE run SET state = $2, ended_at = $3, fact = $4 WHERE id = $1",
            fact.run_id,
            "trained" if isinstance(fact, ModelTrained) else "failed",
            now,
            fact.model_dump_json(),
        )

    async def judge_run(self, connection: Connection, run_id: UUID, state: RunState) -> JudgedRun | None:
        """What became of its model; gives the decision it is of, None for a run that is not ours."""
        row = await connection.fetchrow(
            """UPDATE run SET state = CASE WHEN state IN ('failed', 'promoted') THEN state ELSE $2 END
                WHERE id = $1 RETURNING decision_id, data_time""",
            run_id,
            state,
        )
        return JudgedRun.model_validate(dict(row)) if row else None

    async def last_run(self, connection: Connection, model: str) -> LastRun | None:
        """The run that was asked for last, and what became of it."""
        row = await connection.fetchrow(
            "SELECT id, state, asked_at, fact FROM run WHERE model = $1 ORDER BY asked_at DESC, id LIMIT 1", model
        )
        if row is None:
            return None
        failed = TrainingFailed.model_validate_json(row["fact"]) if row["state"] == "failed" and row["fact"] else None
        return LastRun(id=row["id"], state=row["state"], asked_at=row["asked_at"], failed=failed)

    async def runs(
        self, connection: Connection, *, model: str | None, id: UUID | None = None, limit: int = 50
    ) -> tuple[StoredRun, ...]:
        """Newest first, with the progress their jobs noted."""
        rows = await connection.fetch(
            """SELECT run.*, job.attempt, job.notes FROM run
                 LEFT JOIN LATERAL (SELECT attempt, notes FROM job WHERE kind = 'train-model'
                                     AND arguments::jsonb #>> '{spec,run_id}' = run.id::text
                                   ORDER BY seq DESC LIMIT 1) job ON true
                WHERE ($1::text IS NULL OR run.model = $1) AND ($2::uuid IS NULL OR run.id = $2)
                ORDER BY asked_at DESC LIMIT $3""",
            model,
            id,
            limit,
        )
        return tuple(_run(row) for row in rows)


def _decision(row: Any) -> StoredDecision:
    return StoredDecision(
        id=row["id"],
        model=row["model"],
        outcome=Outcome(row["outcome"]),
        trigger=row["trigger"],
        reason=row["reason"],
        tree=EvaluatedNode.model_validate_json(row["tree"]),
        data_time=row["data_time"],
        decided_at=row["decided_at"],
        run_id=row["run_id"],
        seq=row["seq"],
        fact=RetrainDecided.model_validate_json(row["fact"]) if row["fact"] else None,
        plan=Plan.model_validate_json(row["plan"]) if row["plan"] else None,
    )


def _run(row: Any) -> StoredRun:
    fact = row["fact"]
    failed = row["state"] == "failed"
    return StoredRun(
        id=row["id"],
        decision_id=row["decision_id"],
        model=row["model"],
        state=row["state"],
        data_time=row["data_time"],
        asked_at=row["asked_at"],
        ended_at=row["ended_at"],
        trained=ModelTrained.model_validate_json(fact) if fact and not failed else None,
        failed=TrainingFailed.model_validate_json(fact) if fact and failed else None,
        attempt=row["attempt"] or 0,
        progress=json.loads(row["notes"] or "{}"),
    )
