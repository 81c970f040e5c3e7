"""Pipelines, versions and the champion pointer over HTTP."""

import hashlib
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from ctloop.events.envelope import first_problem
from ctloop.events.errors import RejectedEvent
from ctloop.events.manifest import Manifest
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.pointer import ChampionPointer
from ctloop.events.values import ObjectRef
from ctloop.platform.delivery import Command
from ctloop.platform.delivery.edge import Edge
from ctloop.platform.http import ProblemResponse
from ctloop.platform.storage import Objects
from ctloop_registry.commands import ApplyPipeline, PromoteVersion, RollBack
from ctloop_registry.domain.releases import unusable
from ctloop_registry.store import RegistryStore
from ctloop_registry.store_rows import Deployment, Evidence, Moved, Release

T = TypeVar("T")
BUNDLE_LIMIT = 8 << 20
"""Largest bundle, in bytes: source code, not data."""
MANIFEST_LIMIT = 200 << 10
Limit = Annotated[int, Query(ge=1, le=500)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]
IfMatch = Annotated[str | None, Header(alias="If-Match", max_length=200)]


class PromoteBody(BaseModel):
    """A promotion by hand."""

    version: int = Field(ge=1)
    reason: str = ""
    force: bool = False


class RollBackBody(BaseModel):
    """A way back by hand."""

    to: int | None = Field(default=None, ge=1)
    reason: str = Field(default="asked by a person", min_length=1)


class Applied(BaseModel):
    """What is in force after an apply."""

    model: str
    pipeline_version: int
    digest: str
    changed: bool


class VersionPage(BaseModel):
    items: tuple[Evidence, ...]
    next_cursor: int | None = None


class HistoryPage(BaseModel):
    items: tuple[Moved, ...]
    next_cursor: int | None


def create_api(store: RegistryStore, objects: Objects) -> Callable[[Edge], APIRouter]:
    """The router, made once the edge is there."""

    def router(edge: Edge) -> APIRouter:
        api = APIRouter(prefix="/v1")
        _add_pipelines(api, edge, store, objects)
        _add_models(api, edge, store)
        _add_commands(api, edge)
        return api

    return router


def _add_pipelines(api: APIRouter, edge: Edge, store: RegistryStore, objects: Objects) -> None:
    @api.post("/bundles", status_code=201)
    async def upload_bundle(request: Request) -> ObjectRef:
        """Store the zip of a model file, by its content."""
        body = await _bounded(request, BUNDLE_LIMIT)
        if body[:2] != b"PK":
            raise ProblemResponse(415, "CT1009", "the bundle is not a zip", hint="ctloop apply makes it")
        return await objects.put_content("bundles", body, format="zip")

    @api.post("/pipelines")
    async def apply(request: Request, response: Response, key: Key = None, if_match: IfMatch = None) -> Applied:
        """Put a manifest in force; the same again changes nothing."""
        manifest = _manifest(await _bounded(request, MANIFEST_LIMIT))
        try:
            await objects.get(manifest.bundle)
        except RejectedEvent as error:
            raise ProblemResponse(
                422, "CT1009", "the bundle is not in the store", str(error), "upload it first"
            ) from error
        said = await edge.execute(ApplyPipeline(manifest=manifest, if_match=if_match and if_match.strip('" ')), key=key)
        async with edge.reading() as connection:
            now = await store.pipelines.in_force(connection, manifest.model)
        assert now is not None, "it was just applied"
        released = any(isinstance(one.event, PipelineReleased) for one in said)
        response.status_code = 201 if released else 200
        response.headers["ETag"] = f'"{now.digest}"'
        return Applied(model=now.model, pipeline_version=now.pipeline_version, digest=now.digest, changed=released)

    @api.get("/pipelines")
    async def list_pipelines(cursor: str = "", limit: Limit = 100) -> dict[str, Any]:
        """The pipelines in force, by model."""
        async with edge.reading() as connection:
            found: tuple[Release, ...] = await store.pipelines.newest(connection, cursor, limit)
        return {"items": found, "next_cursor": found[-1].model if len(found) == limit else None}

    @api.get("/manifests/{digest}")
    async def manifest(digest: str) -> Manifest:
        """A manifest that was ever in force."""
        async with edge.reading() as connection:
            found = await store.pipelines.manifest(connection, digest)
        return _found(found, f"no manifest {digest[:12]}")


def _add_models(api: APIRouter, edge: Edge, store: RegistryStore) -> None:
    @api.get("/models")
    async def list_models(cursor: str = "", limit: Limit = 100) -> dict[str, Any]:
        """Every applied model with its champion, if it has one."""
        async with edge.reading() as connection:
            pipelines = await store.pipelines.newest(connection, cursor, limit)
            champions = {one.model: one for one in await store.pointer.all(connection, cursor, limit)}
        items = [{"model": one.model, "pipeline": one, "champion": champions.get(one.model)} for one in pipelines]
        return {"items": items, "next_cursor": pipelines[-1].model if len(pipelines) == limit else None}

    @api.get("/models/{model}")
    async def show_model(model: str) -> dict[str, Any]:
        """A model: pipeline in force, champion, newest versions."""
        async with edge.reading() as connection:
            pipeline = _found(await store.pipelines.in_force(connection, model), f"no model {model!r}")
            champion = await store.pointer.read(connection, model)
            versions = await store.versions.newest(connection, model, None, 20)
        return {"model": model, "pipeline": pipeline, "champion": champion, "versions": versions}

    @api.get("/models/{model}/versions")
    async def versions(model: str, cursor: int | None = None, limit: Limit = 50) -> VersionPage:
        """The last judgement of each version, newest first."""
        async with edge.reading() as connection:
            found = await store.versions.newest(connection, model, cursor, limit)
        return VersionPage(items=found, next_cursor=found[-1].version if len(found) == limit else None)

    @api.get("/models/{model}/versions/{version}")
    async def show_version(model: str, version: int) -> VersionPage:
        """Every judgement of a version."""
        async with edge.reading() as connection:
            found = await store.versions.evidence_of(connection, model, version)
        return VersionPage(items=_found(found or None, f"no version {model}@{version}"))

    @api.get("/models/{model}/champion")
    async def champion(model: str, response: Response, at: AwareDatetime | None = None) -> ChampionPointer:
        """What is live, or was live at a time: version, digest, epoch, where its bytes are."""
        async with edge.reading() as connection:
            found = await (store.pointer.at(connection, model, at) if at else store.pointer.read(connection, model))
        pointer = _found(found, f"{model!r} has no champion" + (f" at {at.isoformat()}" if at else " yet"))
        response.headers["ETag"] = f'"{pointer.epoch}"'
        return pointer

    @api.get("/models/{model}/history")
    async def history(model: str, cursor: int = 0, limit: Limit = 500) -> HistoryPage:
        """Every move of the pointer, oldest first."""
        async with edge.reading() as connection:
            found = await store.pointer.history(connection, model, cursor, limit)
        return HistoryPage(items=found, next_cursor=found[-1].epoch if len(found) == limit else None)

    @api.get("/models/{model}/deployments/{epoch}")
    async def deployments(model: str, epoch: int) -> dict[str, tuple[Deployment, ...]]:
        """What replicas said of an epoch."""
        async with edge.reading() as connection:
            return {"items": await store.pointer.deployments(connection, model, epoch)}


def _add_commands(api: APIRouter, edge: Edge) -> None:
    async def moved(command: Command, key: str | None) -> dict[str, Any]:
        said = await edge.execute(command, key=key)
        return {"said": [one.event for one in said], "event_id": str(said[0].envelope.id)}

    @api.post("/models/{model}/promote")
    async def promote(model: str, body: PromoteBody, key: Key = None, if_match: IfMatch = None) -> dict[str, Any]:
        """Make a version champion by hand; it needs evidence, and force and a reason against a failed verdict."""
        command = PromoteVersion(
            model=model, version=body.version, reason=body.reason, force=body.force, if_epoch=_epoch(if_match)
        )
        return await moved(command, key)

    @api.post("/models/{model}/rollback")
    async def roll_back(model: str, body: RollBackBody, key: Key = None, if_match: IfMatch = None) -> dict[str, Any]:
        """Go back to the champion before, or to a named one, under a new epoch."""
        return await moved(RollBack(model=model, to=body.to, reason=body.reason, if_epoch=_epoch(if_match)), key)


def _found(value: T | None, what: str) -> T:
    if value is None:
        raise ProblemResponse(404, "CT3201", what, hint="ctloop model ls")
    return value


def _epoch(if_match: str | None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    try:
        return int(if_match.strip('" '))
    except ValueError as error:
        raise ProblemResponse(400, "CT4000", "If-Match is not an epoch", if_match) from error


async def _bounded(request: Request, limit: int) -> bytes:
    """The body, refused before it is read when it is announced too long, and while it is read when it becomes so."""
    if int(request.headers.get("content-length") or 0) > limit:
        raise ProblemResponse(413, "CT4130", f"at most {limit} bytes")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise ProblemResponse(413, "CT4130", f"at most {limit} bytes")
    return bytes(body)


def _manifest(body: bytes) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(body)
    except ValidationError as error:
        digest = hashlib.sha256(body).hexdigest()[:12]
        raise _no_manifest(f"{first_problem(error)} (body {digest})") from error
    if why := unusable(manifest):
        raise _no_manifest(why)
    if manifest.bundle.bytes > BUNDLE_LIMIT:
        raise ProblemResponse(413, "CT4130", "the bundle is too large", f"at most {BUNDLE_LIMIT} bytes")
    return manifest


def _no_manifest(why: str) -> ProblemResponse:
    return ProblemResponse(422, "CT4220", "not a manifest", why, hint="ctloop apply makes it of a model file")
