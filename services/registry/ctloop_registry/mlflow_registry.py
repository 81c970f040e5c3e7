"""MLflow's model registry over its REST API, by httpx. Everything here may be repeated: it looks before it creates."""

from types import TracebackType
from typing import Any, Self

import httpx

from ctloop.events.errors import RejectedEvent, TransientError

VERSION_TAG = "ctloop.version"
EPOCH_TAG = "ctloop.epoch"
CHAMPION = "champion"
MISSING = "RESOURCE_DOES_NOT_EXIST"
EXISTS = "RESOURCE_ALREADY_EXISTS"


class MlflowRefused(RejectedEvent):
    """MLflow says that the request can never succeed."""


class MlflowRegistry:
    """Registered models, versions and the alias champion. Built closed."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(base_url=f"{self._url}/api/2.0/mlflow/", timeout=10.0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def ensure_model(self, model: str) -> None:
        """Make the registered model unless it is there."""
        if await self._ask("GET", "registered-models/get", params={"name": model}) is None:
            await self._ask("POST", "registered-models/create", json={"name": model}, fine=EXISTS)

    async def find_version(self, model: str, version: int) -> str | None:
        """MLflow's number of our version, by our tag; None when it is not there."""
        wanted = f"name = '{model}' AND tags.`{VERSION_TAG}` = '{version}'"
        found = await self._ask("GET", "model-versions/search", params={"filter": wanted, "max_results": 1})
        versions = (found or {}).get("model_versions", [])
        return str(versions[0]["version"]) if versions else None

    async def add_version(
        self, model: str, version: int, *, source: str, run_id: str | None, tags: dict[str, str]
    ) -> str:
        """Register our version; gives MLflow's number. Lanes keep two from doing so at once."""
        body: dict[str, Any] = {
            "name": model,
            "source": source,
            "tags": [{"key": key, "value": value} for key, value in {VERSION_TAG: str(version), **tags}.items()],
        }
        if run_id is not None:
            body["run_id"] = run_id
        made = await self._ask("POST", "model-versions/create", json=body, fine=EXISTS)
        return str((made or {})["model_version"]["version"])

    async def epoch(self, model: str) -> int:
        """The epoch the alias shows, by our tag on the registered model; 0 when there is none."""
        found = await self._ask("GET", "registered-models/get", params={"name": model}) or {}
        tags = found.get("registered_model", {}).get("tags", [])
        return next((int(tag["value"]) for tag in tags if tag["key"] == EPOCH_TAG), 0)

    async def point(self, model: str, mlflow_version: str, epoch: int) -> None:
        """Set the alias champion, then the epoch it shows."""
        alias = {"name": model, "alias": CHAMPION, "version": mlflow_version}
        await self._ask("POST", "registered-models/alias", json=alias)
        await self._ask(
            "POST", "registered-models/set-tag", json={"name": model, "key": EPOCH_TAG, "value": str(epoch)}
        )

    async def _ask(self, method: str, path: str, *, fine: str = MISSING, **request: Any) -> dict[str, Any] | None:
        """One request; None when MLflow answers with the error code that is fine here."""
        assert self._client is not None, "MlflowRegistry is not open"
        try:
            answer = await self._client.request(method, path, **request)
        except httpx.HTTPError as error:
            raise TransientError(f"MLflow does not answer: {type(error).__name__}") from error
        if answer.status_code >= 500 or answer.status_code in (408, 429):
            raise TransientError(f"MLflow answered {answer.status_code} to {path}")
        if answer.is_error:
            code = _error_code(answer)
            if code == fine:
                return None
            raise MlflowRefused(f"MLflow answered {answer.status_code} {code} to {path}: {answer.text[:500]}")
        return answer.json()


def _error_code(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("error_code", ""))
    except ValueError:
        return ""
