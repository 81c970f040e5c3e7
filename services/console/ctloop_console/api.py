"""Loops, timeline, why and the live stream over HTTP."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from prometheus_client import Gauge

from ctloop.platform.delivery.edge import Edge
from ctloop.platform.http import ProblemResponse
from ctloop_console.domain.loops import Loop
from ctloop_console.domain.why import Why, line
from ctloop_console.feed import Feed
from ctloop_console.reads import Reads
from ctloop_console.store import ConsoleStore, Filter

Limit = Annotated[int, Query(ge=1, le=1000)]
Wanted = Annotated[Filter, Query()]
READERS = Gauge("ctloop_sse_clients", "Readers of the live stream.")
PAGE = 500
SILENCE_SECONDS = 0.25
"""Readers look again after this long even when nobody rang."""
KEEPALIVE_TURNS = 40
LATENCY_FACTS = 5000


def create_api(store: ConsoleStore, feed: Feed) -> Callable[[Edge], APIRouter]:
    """The router, made once the edge is there."""

    def router(edge: Edge) -> APIRouter:
        api = APIRouter(prefix="/v1")
        _add_loops(api, edge, Reads(store), store)
        _add_why(api, edge, Reads(store), store)
        _add_timeline(api, edge, store)
        _add_stream(api, edge, store, feed)
        return api

    return router


def _add_loops(api: APIRouter, edge: Edge, reads: Reads, store: ConsoleStore) -> None:
    @api.get("/loops")
    async def loops(model: str | None = None, cursor: int | None = None, limit: Limit = 50) -> dict[str, Any]:
        """Loops, newest first, each hop with its time."""
        async with edge.reading() as connection:
            found, more = await reads.loops(connection, model, cursor, limit)
        return {"items": found, "next_cursor": more}

    @api.get("/loops/{loop_id}")
    async def loop(loop_id: UUID) -> Loop:
        """One loop."""
        async with edge.reading() as connection:
            found = await reads.loop(connection, loop_id)
        if found is None:
            raise ProblemResponse(404, "CT3301", f"no loop {loop_id} was heard of", hint="ctloop loop ls")
        return found

    @api.get("/models/{model}/loops/{number}")
    async def numbered(model: str, number: int) -> Loop:
        """A model's n-th loop, from 1."""
        async with edge.reading() as connection:
            loop_id = await store.decision_numbered(connection, model, number) if number > 0 else None
            found = await reads.loop(connection, loop_id) if loop_id else None
        if found is None:
            raise ProblemResponse(404, "CT3301", f"{model!r} has no loop {number}", hint="ctloop loop ls")
        return found


def _add_why(api: APIRouter, edge: Edge, reads: Reads, store: ConsoleStore) -> None:
    @api.get("/why/{model}/{version}")
    async def why(model: str, version: int) -> Why:
        """Why a version is what it is."""
        async with edge.reading() as connection:
            run_id = await store.run_of(connection, model, version)
            found = await reads.why_run(connection, run_id) if run_id else None
        if found is None:
            raise ProblemResponse(
                404, "CT3302", f"{model}@{version} was never promoted", hint=f"ctloop model show {model}"
            )
        return found

    @api.get("/why/runs/{run_id}/facts")
    async def why_run(run_id: UUID) -> Why:
        """Why a run is what it is, promoted or not."""
        async with edge.reading() as connection:
            found = await reads.why_run(connection, run_id)
        if found is None:
            raise ProblemResponse(404, "CT3302", f"no fact names run {run_id}")
        return found


def _add_timeline(api: APIRouter, edge: Edge, store: ConsoleStore) -> None:
    @api.get("/timeline")
    async def timeline(want: Wanted, limit: Limit = 200) -> dict[str, Any]:
        """The newest facts, oldest first."""
        async with edge.reading() as connection:
            found = await store.newest(connection, want, limit)
        return {"items": [line(fact) for fact in found]}

    @api.get("/facts")
    async def counts() -> dict[str, Any]:
        """How many facts of each kind were heard."""
        async with edge.reading() as connection:
            return {"items": await store.counts(connection)}

    @api.get("/latencies")
    async def latencies() -> dict[str, Any]:
        """Seconds between facts, over the newest ones."""
        async with edge.reading() as connection:
            return {"items": await store.latencies(connection, LATENCY_FACTS)}


def _add_stream(api: APIRouter, edge: Edge, store: ConsoleStore, feed: Feed) -> None:
    @api.get("/stream")
    async def stream(
        request: Request, want: Wanted, last_event_id: Annotated[int | None, Header(alias="Last-Event-ID")] = None
    ) -> StreamingResponse:
        """Facts as they are heard, as server-sent events; with Last-Event-ID from there on."""
        async with edge.reading() as connection:
            start = last_event_id if last_event_id is not None else await store.last(connection)
        body = _events(request, edge, store, feed, want, start)
        return StreamingResponse(body, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _events(
    request: Request, edge: Edge, store: ConsoleStore, feed: Feed, want: Filter, cursor: int
) -> AsyncIterator[str]:
    with READERS.track_inprogress():
        async for text in _followed(request, edge, store, feed, want, cursor):
            yield text


async def _followed(
    request: Request, edge: Edge, store: ConsoleStore, feed: Feed, want: Filter, cursor: int
) -> AsyncIterator[str]:
    silent = 0
    while not await request.is_disconnected():
        async with edge.reading() as connection:
            seen = await store.last(connection)
            found = await store.after(connection, cursor, want, PAGE)
        for fact in found:
            yield f"id: {fact.seq}\nevent: fact\ndata: {line(fact, with_data=True).model_dump_json()}\n\n"
        cursor = max(cursor, seen, *(fact.seq for fact in found)) if len(found) < PAGE else found[-1].seq
        silent = 0 if found else silent + 1
        if silent and silent % KEEPALIVE_TURNS == 0:
            yield ": still here\n\n"
        if not found:
            await feed.wait(SILENCE_SECONDS)
