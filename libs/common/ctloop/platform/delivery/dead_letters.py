"""Dead letters and quarantine for operators: list, look, and play a dead letter again."""

import base64
import contextlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from prometheus_client import Counter, Gauge

from ctloop.events.errors import Reason
from ctloop.platform.delivery.disposition import DATABASE_GONE
from ctloop.platform.delivery.edge import Edge
from ctloop.platform.http import ProblemResponse

WAITING = Gauge("ctloop_dlq_records", "Dead letters that nobody has played again.", ["service"])
REDRIVEN = Counter("ctloop_redrive", "Dead letters played again.", ["service"])
Limit = Annotated[int, Query(ge=1, le=200)]
After = Annotated[int, Query(ge=0, le=2**63 - 1)]
Number = Annotated[int, Path(ge=1, le=2**63 - 1)]
BYTES_SHOWN = 4096


def dead_letter_api(edge: Edge) -> APIRouter:
    """``/v1/dlq`` and ``/v1/quarantine`` of a service."""
    api = APIRouter(prefix="/v1", tags=["dead letters"])

    @api.get("/dlq")
    async def list_dead(
        state: Literal["DEAD", "REPLAYED"] = "DEAD", limit: Limit = 50, after: After = 0
    ) -> dict[str, Any]:
        """Dead letters, oldest first."""
        async with edge.reading() as connection:
            rows = await connection.fetch(
                "SELECT * FROM dead_event WHERE state = $1 AND n > $2 ORDER BY n LIMIT $3",
                state, after, limit,
            )  # fmt: skip
        return _page([_shown(row) for row in rows], limit)

    @api.get("/dlq/{n}")
    async def show_dead(n: Number) -> dict[str, Any]:
        """One dead letter with its bytes."""
        async with edge.reading() as connection:
            row = await connection.fetchrow("SELECT * FROM dead_event WHERE n = $1", n)
        if row is None:
            raise ProblemResponse(404, "CT4043", f"no dead letter {n}")
        return _shown(row, whole=True)

    @api.post("/dlq/{n}:replay", status_code=202)
    async def replay_dead(n: Number) -> dict[str, Any]:
        """Hand a dead letter to its handler again: once; nothing is published to Kafka again."""
        async with edge.transaction() as connection:
            row = await connection.fetchrow(
                "UPDATE dead_event SET state = 'REPLAYED' WHERE n = $1 AND state = 'DEAD' RETURNING *", n
            )
            if row is None:
                known = await connection.fetchval("SELECT state FROM dead_event WHERE n = $1", n)
                status, code = (409, "CT4091") if known else (404, "CT4043")
                raise ProblemResponse(
                    status, code, f"dead letter {n} was replayed before" if known else f"no dead letter {n}"
                )
            await connection.execute(
                """INSERT INTO parked (topic, part, "offset", key, source, id, headers, payload, reason)
                   SELECT topic, part, "offset", key, source, id, headers, payload, 'replay' FROM dead_event WHERE n = $1""",
                n,
            )
        REDRIVEN.labels(edge.service).inc()
        return {"n": n, "state": "REPLAYED"}

    @api.get("/quarantine/events")
    async def list_quarantine(reason: Reason | None = None, limit: Limit = 50, after: After = 0) -> dict[str, Any]:
        """Events that can never succeed, oldest first, with the reason and their bytes."""
        async with edge.reading() as connection:
            rows = await connection.fetch(
                "SELECT * FROM quarantine WHERE ($1::text IS NULL OR reason = $1) AND n > $2 ORDER BY n LIMIT $3",
                reason, after, limit,
            )  # fmt: skip
        return _page([_shown(row) for row in rows], limit)

    return api


async def count_dead(edge: Edge) -> None:
    """Bring the gauge up to date, as far as the database answers."""
    with contextlib.suppress(*DATABASE_GONE):
        async with edge.reading() as connection:
            waiting = await connection.fetchval("SELECT count(*) FROM dead_event WHERE state = 'DEAD'")
        WAITING.labels(edge.service).set(waiting)


def _page(items: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    return {"items": items, "next_cursor": items[-1]["n"] if len(items) >= limit else None}


def _shown(row: Mapping[str, Any], *, whole: bool = False) -> dict[str, Any]:
    shown = {name: row[name] for name in ("n", "topic", "part", "offset", "source", "reason", "message", "at")}
    shown |= {"id": str(row["id"]), "key": bytes(row["key"]).decode("utf-8", "replace"), "bytes": len(row["payload"])}
    shown |= {name: row[name] for name in ("attempts", "state", "first_failed") if name in row.keys()}  # noqa: SIM118
    body = bytes(row["payload"])
    shown["payload"] = (body if whole else body[:BYTES_SHOWN]).decode("utf-8", "backslashreplace")
    if whole:
        shown |= {"payload_base64": base64.b64encode(body).decode(), "headers": row["headers"]}
    return shown
