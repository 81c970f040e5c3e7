"""The service as it is wired, with nothing else running."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from ctloop.platform.settings import Settings
from ctloop_serving.app import create_app

NOWHERE = "127.0.0.1:1"


@pytest.fixture
async def service(replica: Any, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Serving on the disk cache that the replica has left, registry, Kafka and object store down."""
    keys = tmp_path / "keys.json"
    keys.write_text('{"access_key": "test", "secret_key": "test"}')
    settings = Settings.model_validate(
        {
            "kafka": {"bootstrap": NOWHERE},
            "s3": {"endpoint": f"http://{NOWHERE}", "keys_file": str(keys)},
            "registry": {"url": f"http://{NOWHERE}"},
            "service": {"data_dir": str(tmp_path)},
        }
    )
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(settings).app, log_level="warning", lifespan="on"))
    running = asyncio.create_task(server.serve(sockets=[listening]))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=30) as client:
        yield client
    server.should_exit = True
    await running


@pytest.mark.timeout(90)
async def test_it_boots_alone_and_answers(service: httpx.AsyncClient, row: dict[str, Any]) -> None:
    """Data paths go past the platform's routes, its own routes answer, and ready it is."""
    answer = await service.post("/v1/models/weather-delays/predict", json=row)
    assert (answer.status_code, answer.json()["version"]) == (200, 1)
    assert (await service.get("/v2/models/weather-delays")).json()["versions"] == ["1"]
    assert (await service.get("/v2/health/ready")).status_code == 200
    for path in ("/livez", "/readyz", "/metrics", "/version", "/openapi.json"):
        assert (await service.get(path)).status_code == 200, path
    assert "ctloop_prediction_requests_total" in (await service.get("/metrics")).text
    assert (await service.get("/v1/pipelines/weather-delays")).status_code == 503
    assert (await service.get("/v1/nothing")).json()["code"] == "CT5006"
