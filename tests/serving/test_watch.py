"""The pointer watch against a registry that answers over HTTP, and one that does not."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, HTTPException

from ctloop.events.errors import TransientError
from ctloop_serving.pointer_watch import PointerWatch

PREDICT = "/v1/models/weather-delays/predict"


class Registry:
    """What the registry answers, by the contract's own class."""

    def __init__(self, manifest: Any) -> None:
        self.pointers: dict[str, Any] = {}
        self.models = ["weather-delays", "nobody-yet"]
        self.app = FastAPI()
        self.app.get("/v1/models")(lambda: {"items": [{"model": one} for one in self.models], "next_cursor": None})
        self.app.get("/v1/models/{model}/champion")(self.champion)
        self.app.get("/v1/manifests/{digest}")(lambda digest: manifest.model_dump(mode="json"))

    async def champion(self, model: str) -> Any:
        if model not in self.pointers:
            raise HTTPException(404)
        return self.pointers[model].model_dump(mode="json")


@pytest.fixture
async def registry(manifest: Any) -> AsyncIterator[tuple[Registry, str]]:
    """A registry and its address."""
    made = Registry(manifest)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(made.app, lifespan="off", log_level="warning"))
    running = asyncio.create_task(server.serve(sockets=[listening]))
    yield made, f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    await running


async def test_a_moved_pointer_is_obeyed(
    registry: tuple[Registry, str],
    replica_at: Callable[..., Any],
    promoted: Callable[..., Any],
    objects: Any,
    tmp_path: Path,
    row: dict[str, Any],
) -> None:
    """Nothing to serve, then a first champion, then the next: each look brings in what moved."""
    made, url = registry
    replica = replica_at(tmp_path / "empty", objects, registry=url, cached=False)
    watch = PointerWatch(replica.registry, replica.rollout, replica.deployments)
    assert not replica.deployments.ready
    await watch.look()
    assert replica.deployments.ready
    assert (await replica.client.post(PREDICT, json=row)).status_code == 404
    for version in (1, 2):
        made.pointers["weather-delays"] = promoted(objects, version, version)
        await watch.look()
        assert (await replica.client.post(PREDICT, json=row)).json()["version"] == version
    await replica.rollout.close()


async def test_a_store_that_is_down_is_waited_for(
    registry: tuple[Registry, str],
    replica_at: Callable[..., Any],
    promoted: Callable[..., Any],
    objects: Any,
    tmp_path: Path,
    row: dict[str, Any],
) -> None:
    """A champion whose bytes cannot be fetched is 503 and not ready, and served as soon as they can."""
    made, url = registry
    replica = replica_at(tmp_path / "empty", objects, registry=url, cached=False)
    watch = PointerWatch(replica.registry, replica.rollout, replica.deployments)
    made.pointers["weather-delays"] = promoted(objects, 1, 1)
    objects.down = True
    await watch.look()
    answer = await replica.client.post(PREDICT, json=row)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert (await replica.client.get("/v2/health/ready")).status_code == 503
    objects.down = False
    await watch.look()
    assert (await replica.client.post(PREDICT, json=row)).status_code == 200
    await replica.rollout.close()


async def test_a_silent_registry_changes_nothing(replica: Any, row: dict[str, Any]) -> None:
    """With the registry down a look fails, and what is served goes on."""
    watch = PointerWatch(replica.registry, replica.rollout, replica.deployments)
    with pytest.raises(TransientError):
        await watch.look()
    assert (await replica.client.post(PREDICT, json=row)).status_code == 200
