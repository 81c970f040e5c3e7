"""What people ask validation: versions of a dataset, audits, rows in quarantine."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from ctloop.platform.delivery import Edge
from ctloop_validation.store import ValidationStore

Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[int, Query(ge=0, description="next_cursor of the page before")]
FIRST_PAGE = (1 << 63) - 1


class Version(BaseModel):
    """A dataset version."""

    n: int
    digest: str
    records_version: int
    labels_version: int
    number: int
    records: int
    labels: int
    data_time: datetime | None
    created: datetime


class Versions(BaseModel):
    """Newest first."""

    items: list[Version]
    next_cursor: int | None


class AuditedBatch(BaseModel):
    """What was found in a batch."""

    number: int
    verdict: str
    rows: int
    labelled: int
    duplicates: int
    quarantined: int
    report_uri: str
    quarantine_uri: str | None
    ended: datetime


class Audits(BaseModel):
    """Newest first."""

    items: list[AuditedBatch]
    next_cursor: int | None


class Row(BaseModel):
    """A row in quarantine."""

    number: int
    sequence: int
    reasons: list[str]
    row: str
    quarantined: datetime


class Rows(BaseModel):
    """Newest first; the first 200 of a batch, the batch's object has all."""

    items: list[Row]
    next_cursor: int | None


def create_api(store: ValidationStore) -> Callable[[Edge], APIRouter]:
    """Validation's paths."""

    def routes(edge: Edge) -> APIRouter:
        router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

        async def page(
            ask: Callable[..., Awaitable[list[dict[str, Any]]]], name: str, cursor: int, limit: int, place: str
        ) -> dict[str, Any]:
            async with edge.reading() as connection:
                items = await ask(connection, name, cursor, limit)
            return {"items": items, "next_cursor": items[-1][place] if len(items) == limit else None}

        @router.get("/{name}/versions")
        async def versions(name: str, limit: Limit = 100, cursor: Cursor = FIRST_PAGE) -> Versions:
            """The versions a dataset has had."""
            return Versions.model_validate(await page(store.versions, name, cursor, limit, "n"))

        @router.get("/{name}/audits")
        async def audits(name: str, limit: Limit = 100, cursor: Cursor = FIRST_PAGE) -> Audits:
            """What was found in each batch."""
            return Audits.model_validate(await page(store.audits, name, cursor, limit, "number"))

        @router.get("/{name}/quarantine")
        async def quarantine(name: str, limit: Limit = 100, cursor: Cursor = FIRST_PAGE) -> Rows:
            """Rows that were refused, with their reasons. (Events that were refused: /v1/quarantine.)"""
            return Rows.model_validate(await page(store.quarantined, name, cursor, limit, "sequence"))

        _ = versions, audits, quarantine
        return router

    return routes
