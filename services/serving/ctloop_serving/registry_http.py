"""The registry over HTTP: which models there are, who is champion, what a manifest says."""

from typing import Any, TypeVar, cast

import httpx
from pydantic import ValidationError

from ctloop.events.envelope import Value
from ctloop.events.errors import TransientError
from ctloop.events.manifest import Manifest
from ctloop.events.pointer import ChampionPointer

TIMEOUT_SECONDS = 3.0


class RegistryHttp:
    """Read only. Every failure to answer is a TransientError: serving goes on with what it has."""

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS)

    async def __aenter__(self) -> "RegistryHttp":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def models(self) -> dict[str, int]:
        """Names of all models the registry knows, with the champion's epoch; 0: the list does not say."""
        epochs: dict[str, int] = {}
        cursor: str | None = None
        while True:
            page = await self._get("/v1/models", {"limit": "500"} | ({"cursor": cursor} if cursor else {}))
            if page is None:
                raise TransientError("registry: it does not list its models")
            items = cast(list[Any], page["items"] if isinstance(page, dict) else page)
            epochs |= {str(one["model"]): int((one.get("champion") or {}).get("epoch", 0)) for one in items}
            cursor = cast(str | None, page.get("next_cursor")) if isinstance(page, dict) else None
            if not cursor:
                return epochs

    async def champion(self, model: str) -> ChampionPointer | None:
        """The champion pointer; None when the model has no champion."""
        body = await self._get(f"/v1/models/{model}/champion", {})
        return None if body is None else _read(ChampionPointer, body)

    async def manifest(self, digest: str) -> Manifest:
        """A manifest by digest."""
        body = await self._get(f"/v1/manifests/{digest}", {})
        if body is None:
            raise TransientError(f"the registry does not know manifest {digest[:12]}")
        return _read(Manifest, body)

    async def pipeline(self, model: str) -> dict[str, Any] | None:
        """The newest pipeline of a model as the registry shows it; None: there is none."""
        return cast(dict[str, Any] | None, await self._get(f"/v1/pipelines/{model}", {}))

    async def _get(self, path: str, query: dict[str, str]) -> Any:
        try:
            answer = await self._client.get(path, params=query)
            if answer.status_code == 404:
                return None
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise TransientError(f"registry: GET {path}: {error}"[:300]) from error


Answer = TypeVar("Answer", bound=Value)


def _read(kind: type[Answer], body: Any) -> Answer:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise TransientError(f"registry: an answer is no {kind.__name__}") from error
