"""The ASGI application of the data path: Open Inference Protocol v2 and rows JSON, no framework in between."""

import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import orjson
from prometheus_client import Counter, Histogram

from ctloop.events.errors import TransientError
from ctloop_serving.batcher import Batcher
from ctloop_serving.capture import Answered, Capture
from ctloop_serving.deployments import Deployment, Deployments
from ctloop_serving.domain import oip_codec, rows_codec
from ctloop_serving.domain.refusals import (
    MAX_BODY,
    Refusal,
    no_such_path,
    not_ready,
    too_large,
    unknown_model,
    unknown_pipeline,
    unknown_version,
    wrong_method,
)
from ctloop_serving.domain.request import Computed, Decoded
from ctloop_serving.prediction_ids import PredictionIds
from ctloop_serving.registry_http import RegistryHttp

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Answer = tuple[int, bytes]

JSON_TYPE = b"application/json"
PROBLEM_TYPE = b"application/problem+json"
SERVER = {"name": "ctloop", "version": "1", "extensions": list[str]()}

REQUESTS = Counter("ctloop_prediction_requests_total", "Requests for predictions, by outcome.", ["model", "outcome"])
LATENCY = Histogram(
    "ctloop_prediction_latency_seconds",
    "From the whole body read to the answer made, in seconds.",
    ["model"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0),
)


class InferenceProtocol:
    """Answers requests; every answer names model, version, digest, epoch and prediction id."""

    def __init__(
        self,
        *,
        deployments: Deployments,
        batcher: Batcher,
        capture: Capture,
        registry: RegistryHttp,
        clock: Callable[[], datetime],
    ) -> None:
        self._deployments, self._batcher, self._capture = deployments, batcher, capture
        self._registry, self._clock = registry, clock
        self._ids = PredictionIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request; a websocket is closed."""
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        path: str = scope["path"]
        kind = JSON_TYPE
        try:
            status, body = await self._route(scope["method"], path.strip("/").split("/"), scope, receive)
        except Refusal as refusal:
            status = refusal.status
            rest = path.startswith("/v2")
            kind = JSON_TYPE if rest else PROBLEM_TYPE
            body = orjson.dumps(refusal.oip() if rest else refusal.problem())
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        headers += [(name, value) for name, value in scope["headers"] if name == b"x-request-id"]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _route(self, method: str, path: list[str], scope: Scope, receive: Receive) -> Answer:
        match path:
            case ["v1", "models", model, "predict"]:
                _only(method, "POST")
                return await self._predict(model, await _body(scope, receive))
            case ["v2", "models", model, "infer"]:
                _only(method, "POST")
                return await self._infer(self._find(model), await _body(scope, receive))
            case ["v2", "models", model, "versions", version, "infer"]:
                _only(method, "POST")
                return await self._infer(self._find(model, version), await _body(scope, receive))
            case ["v1", "pipelines", model]:
                _only(method, "GET", "HEAD")
                return await self._pipeline(model)
            case _:
                _only(method, "GET", "HEAD")
                return self._describe(path)

    def _describe(self, path: list[str]) -> Answer:
        match path:
            case ["v2"]:
                return 200, orjson.dumps(SERVER)
            case ["v2", "health", state]:
                return self._health(state)
            case ["v2", "models", model, *rest]:
                return self._describe_model(model, rest)
            case ["v1", "models"]:
                held = [self._deployments.current[model] for model in self._deployments.models]
                return 200, orjson.dumps({"items": [_summary(one) for one in held], "next_cursor": None})
            case ["v1", "models", model]:
                return 200, orjson.dumps(_summary(self._find(model)))
            case _:
                raise no_such_path("/" + "/".join(path))

    def _health(self, state: str) -> Answer:
        if state not in ("live", "ready"):
            raise no_such_path(f"/v2/health/{state}")
        yes = state == "live" or self._deployments.ready
        return (200 if yes else 503), orjson.dumps({state: yes})

    def _describe_model(self, model: str, rest: list[str]) -> Answer:
        match rest:
            case []:
                return 200, _metadata(self._find(model))
            case ["ready"]:
                return 200, _ready(self._find(model))
            case ["versions", version]:
                return 200, _metadata(self._find(model, version))
            case ["versions", version, "ready"]:
                return 200, _ready(self._find(model, version))
            case _:
                raise no_such_path("/v2/models/" + "/".join([model, *rest]))

    def _find(self, model: str, version: str | None = None) -> Deployment:
        found = self._deployments.current.get(model)
        if found is None:
            if model in self._deployments.loading:
                raise not_ready(model)
            raise unknown_model(model, self._deployments.models)
        if version is not None and version != str(found.stamp.version):
            raise unknown_version(model, version, found.stamp.version)
        return found

    async def _pipeline(self, model: str) -> Answer:
        """The newest pipeline of a model: serving keeps none, it reads manifests when it needs them."""
        try:
            found = await self._registry.pipeline(model)
        except TransientError as error:
            raise Refusal(503, "CT5011", "the registry does not answer", str(error)) from error
        if found is None:
            raise unknown_pipeline(model)
        return 200, orjson.dumps(found)

    async def _predict(self, model: str, body: bytes) -> Answer:
        started = time.perf_counter()
        deployment = self._find(model)
        with _Counted(model):
            request, single = rows_codec.decode(body, deployment.schema)
            ids, computed = await self._answer(deployment, request)
            answer = rows_codec.encode(computed, request, ids, deployment.schema, deployment.stamp, single)
        LATENCY.labels(model).observe(time.perf_counter() - started)
        return 200, answer

    async def _infer(self, deployment: Deployment, body: bytes) -> Answer:
        started = time.perf_counter()
        model = deployment.stamp.model
        with _Counted(model):
            request, asked = oip_codec.decode(body, deployment.schema)
            ids, computed = await self._answer(deployment, request)
            answer = oip_codec.encode(computed, request, ids, deployment.schema, deployment.stamp, asked)
        LATENCY.labels(model).observe(time.perf_counter() - started)
        return 200, answer

    async def _answer(self, deployment: Deployment, request: Decoded) -> tuple[list[str], Computed]:
        computed = await self._batcher.submit(deployment, request)
        now = self._clock()
        ids = self._ids.take(request.rows)
        if deployment.first_answer_at is None:
            deployment.first_answer_at = now
            if deployment.on_first_answer is not None:
                deployment.on_first_answer()
        self._capture.add(Answered(deployment, request, computed, ids, now))
        return ids, computed


class _Counted:
    """Counts a request by how it ended."""

    def __init__(self, model: str) -> None:
        self._model = model

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        outcome = "ok" if kind is None else "refused" if issubclass(kind, Refusal) else "failed"
        REQUESTS.labels(self._model, outcome).inc()


async def _body(scope: Scope, receive: Receive) -> bytes:
    """The request's body, refused by its declared length before a byte of it is read."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > MAX_BODY:
            raise too_large(f"{int(value)} bytes")
        if name == b"inference-header-content-length":
            raise Refusal(400, "CT5010", "binary tensors are not supported", hint="send the tensors' data as JSON")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "CT5000", "the body cannot be read", "the client went away")
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            raise too_large(f"more than {MAX_BODY} bytes")
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _only(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise wrong_method(", ".join(allowed))


def _metadata(deployment: Deployment) -> bytes:
    return orjson.dumps(oip_codec.metadata(deployment.schema, deployment.stamp))


def _ready(deployment: Deployment) -> bytes:
    return orjson.dumps({"name": deployment.stamp.model, "version": str(deployment.stamp.version), "ready": True})


def _summary(deployment: Deployment) -> dict[str, Any]:
    """A served model for people: what answers, what it takes, what it gives."""
    stamp, schema, pointer = deployment.stamp, deployment.schema, deployment.pointer
    return {
        "model": stamp.model,
        "version": stamp.version,
        "digest": stamp.digest,
        "epoch": stamp.epoch,
        "pipeline_digest": pointer.pipeline_digest,
        "id": schema.id,
        "time": schema.time,
        "inputs": [{"name": one.name, "kind": one.kind, "required": one.required} for one in schema.inputs],
        "classes": list(schema.classes),
        "first_answer_at": deployment.first_answer_at,
    }
