"""Decisions, why and why not, and runs over HTTP."""

from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel

from ctloop.platform.delivery import Command
from ctloop.platform.delivery.edge import Edge
from ctloop.platform.http import ProblemResponse
from ctloop_training.commands import ApproveDecision, RetrainNow
from ctloop_training.domain.outcomes import Outcome
from ctloop_training.store import StoredDecision, StoredRun, TrainingStore
from ctloop_training.why_not import WhyNot, read_why_not

Limit = Annotated[int, Query(ge=1, le=500)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


class RetrainBody(BaseModel):
    """Why a person wants it."""

    reason: str = "asked by a person"


class Accepted(BaseModel):
    """A decision that is acted on."""

    decision_id: UUID
    loop_id: UUID
    reason: str


class Decisions(BaseModel):
    items: tuple[StoredDecision, ...]
    next_cursor: int | None


class RunList(BaseModel):
    items: tuple[StoredRun, ...]


def create_api(store: TrainingStore) -> Callable[[Edge], APIRouter]:
    """The router, made once the edge is there."""

    def router(edge: Edge) -> APIRouter:
        api = APIRouter(prefix="/v1")
        _add_decisions(api, edge, store)
        _add_runs(api, edge, store)
        _add_commands(api, edge)
        return api

    return router


def _add_decisions(api: APIRouter, edge: Edge, store: TrainingStore) -> None:
    @api.get("/models/{model}/decisions")
    async def decisions(
        model: str, outcome: Outcome | None = None, cursor: int | None = None, limit: Limit = 50
    ) -> Decisions:
        """Newest first, acted on or not, each with every node's value."""
        async with edge.reading() as connection:
            found = await store.decisions(connection, model, outcome=outcome, before=cursor, limit=limit)
        more = found[-1].seq if len(found) == limit else None
        return Decisions(items=found, next_cursor=more)

    @api.get("/models/{model}/why-not")
    async def why_not(model: str) -> WhyNot:
        """Why the model was not trained again when last looked at."""
        async with edge.reading() as connection:
            return await read_why_not(store, connection, model)

    @api.get("/decisions/{id}")
    async def decision(id: UUID) -> StoredDecision:
        """One decision with its tree."""
        async with edge.reading() as connection:
            found = await store.decision(connection, id)
        if found is None:
            raise ProblemResponse(404, "CT3002", "no such decision", str(id))
        return found


def _add_runs(api: APIRouter, edge: Edge, store: TrainingStore) -> None:
    @api.get("/models/{model}/runs")
    async def runs(model: str, limit: Limit = 50) -> RunList:
        """Newest first, with stage, trial and best value of the open ones."""
        async with edge.reading() as connection:
            return RunList(items=await store.runs(connection, model=model, limit=limit))

    @api.get("/runs/{id}")
    async def run(id: UUID) -> StoredRun:
        """One run."""
        async with edge.reading() as connection:
            found = await store.runs(connection, model=None, id=id)
        if not found:
            raise ProblemResponse(404, "CT3004", "no such run", str(id))
        return found[0]


def _add_commands(api: APIRouter, edge: Edge) -> None:
    async def decide(command: Command, key: str | None, response: Response) -> Accepted:
        said = (await edge.execute(command, key=key))[0]
        event: Any = said.event
        response.headers["Location"] = f"/v1/decisions/{event.decision_id}"
        return Accepted(decision_id=event.decision_id, loop_id=said.envelope.id, reason=event.reason)

    @api.post("/models/{model}/retrain", status_code=202)
    async def retrain(model: str, response: Response, body: RetrainBody | None = None, key: Key = None) -> Accepted:
        """Train now, on what is there."""
        return await decide(RetrainNow(model=model, reason=(body or RetrainBody()).reason), key, response)

    @api.post("/decisions/{id}:approve", status_code=202)
    async def approve(id: UUID, response: Response, key: Key = None) -> Accepted:
        """Act on a decision that was held back."""
        return await decide(ApproveDecision(decision_id=id), key, response)
