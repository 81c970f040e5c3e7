"""Runs in MLflow, over its REST API: it looks before it creates, and may be repeated.

MLflow's own client retries POST, takes three seconds and 80 MB to import and blocks; the API it calls is this one.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx

from ctloop.events.errors import CtloopError, RejectedEvent, TransientError
from ctloop.events.values import ObjectRef
from ctloop.platform.storage import Objects
from ctloop_training.run_jobs import RunRecord

API = "/api/2.0/mlflow/"
RUN_TAG = "ctloop.run_id"
ARTIFACT_LIMIT = 64 << 20
SCHEME = "mlflow-artifacts:/"
MISSING, EXISTS = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"


class MlflowRuns:
    """One experiment per model, one MLflow run per run of ours. Built closed."""

    def __init__(self, url: str, objects: Objects) -> None:
        self._url = url.rstrip("/")
        self._objects = objects
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(base_url=self._url, timeout=10.0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def begin(self, model: str, run_id: UUID) -> str:
        """MLflow's id of a run; made unless it is there.

        Raises:
            TransientError: MLflow is not there.
        """
        with understood():
            return await self._begin(model, run_id)

    async def _begin(self, model: str, run_id: UUID) -> str:
        experiment = await self._experiment(model)
        wanted = {"experiment_ids": [experiment], "filter": f"tags.`{RUN_TAG}` = '{run_id}'", "max_results": 1}
        found = (await self._ask("POST", f"{API}runs/search", json=wanted)).get("runs") or []
        if found:
            return found[0]["info"]["run_id"]
        body = {
            "experiment_id": experiment,
            "run_name": f"{model}-{str(run_id)[:8]}",
            "start_time": int(time.time() * 1000),
            "tags": [{"key": RUN_TAG, "value": str(run_id)}, {"key": "ctloop.model", "value": model}],
        }
        return (await self._ask("POST", f"{API}runs/create", json=body))["run"]["info"]["run_id"]

    async def finish(self, mlflow_run_id: str, record: RunRecord) -> None:
        """Write parameters, metrics, tags and artifacts, then the status. Again is harmless."""
        with understood():
            await self._finish(mlflow_run_id, record)

    async def _finish(self, mlflow_run_id: str, record: RunRecord) -> None:
        now = int(time.time() * 1000)
        batch = {
            "run_id": mlflow_run_id,
            "params": [{"key": key, "value": value} for key, value in record.params],
            "metrics": [{"key": key, "value": value, "timestamp": now, "step": 0} for key, value in record.metrics],
            "tags": [{"key": key, "value": value} for key, value in record.tags],
        }
        await self._ask("POST", f"{API}runs/log-batch", json=batch)
        run = (await self._ask("GET", f"{API}runs/get", params={"run_id": mlflow_run_id}))["run"]
        for name, ref in record.artifacts:
            await self._upload(run["info"]["artifact_uri"], name, ref)
        ended = {"run_id": mlflow_run_id, "status": record.status, "end_time": now}
        await self._ask("POST", f"{API}runs/update", json=ended)

    async def _experiment(self, model: str) -> str:
        name = f"ctloop/{model}"
        for _ in range(2):  # another may make it between looking and making
            wanted = {"experiment_name": name}
            if found := await self._ask("GET", f"{API}experiments/get-by-name", fine=MISSING, params=wanted):
                return found["experiment"]["experiment_id"]
            if made := await self._ask("POST", f"{API}experiments/create", fine=EXISTS, json={"name": name}):
                return made["experiment_id"]
        raise TransientError(f"MLflow: experiment {name!r} is neither there nor can it be made")

    async def _upload(self, root: str, name: str, ref: ObjectRef) -> None:
        """Through MLflow's artifact proxy; where artifacts lie elsewhere or are large, the tag with the uri is enough."""
        if not root.startswith(SCHEME) or ref.bytes > ARTIFACT_LIMIT:
            return
        path = root.removeprefix(SCHEME).strip("/")
        body = await self._objects.get(ref)
        await self._ask("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}/{name}", content=body)

    async def _ask(self, method: str, path: str, *, fine: str = "", **request: Any) -> dict[str, Any]:
        """One request; an empty answer where MLflow's error code is fine here."""
        assert self._client is not None, "open it with `async with`"
        try:
            response = await self._client.request(method, path, **request)
        except httpx.HTTPError as error:
            raise TransientError(f"MLflow: {type(error).__name__}: {error}") from error
        if response.is_success:
            return _body(response)
        if fine and fine in response.text:
            return {}
        raise self._error(response)

    @staticmethod
    def _error(response: httpx.Response) -> CtloopError:
        what = f"MLflow {response.request.url.path}: {response.status_code} {response.text[:300]}"
        return TransientError(what) if response.status_code >= 500 else RejectedEvent(what)


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        return response.json() if response.content else {}
    except ValueError as error:
        raise TransientError(f"MLflow {response.request.url.path}: the answer is no JSON") from error


@contextmanager
def understood() -> Generator[None]:
    """An answer without what MLflow's answers have is that of something else in its place, or of a start."""
    try:
        yield
    except KeyError as error:
        raise TransientError(f"MLflow: its answer has no {error}") from error
