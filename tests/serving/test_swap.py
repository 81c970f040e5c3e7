"""Swaps, rollbacks and refused versions, while requests come in."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import uvicorn

PREDICT = "/v1/models/weather-delays/predict"


@pytest.fixture
async def over_tcp(replica: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the replica behind a real HTTP server."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(replica.protocol, lifespan="off", log_level="warning"))
    running = asyncio.create_task(server.serve(sockets=[listening]))
    port = listening.getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield client
    server.should_exit = True
    await running


@pytest.mark.timeout(180)
async def test_no_request_fails_in_200_swaps(
    replica: Any, over_tcp: httpx.AsyncClient, row: dict[str, Any], says: Callable[..., float]
) -> None:
    """Every answer under 200 swaps is 200 and right for the version it names; epochs never step back for a caller."""
    swaps, done = 200, asyncio.Event()
    answered = [0, 0, 0, 0]

    async def ask(caller: int) -> None:
        epoch = 0
        for number in itertools.count():
            if done.is_set() and number > 10:
                return
            answer = await over_tcp.post(PREDICT, json=row | {"temp": float(number % 40)})
            assert answer.status_code == 200, answer.text
            body = answer.json()
            assert body["epoch"] >= epoch
            epoch = body["epoch"]
            right = says(body["version"] / 10, number % 40, 1, 1)
            assert body["probabilities"]["true"] == pytest.approx(right, abs=1e-5)
            answered[caller] += 1

    async def swap() -> None:
        for epoch in range(2, swaps + 2):
            await replica.deploy(1 + epoch % 7, epoch)
        done.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(swap())
        for caller in range(4):
            group.create_task(ask(caller))
    assert replica.deployments.epoch("weather-delays") == swaps + 1
    assert min(answered) > 10


async def test_a_rollback_needs_no_store(replica: Any, row: dict[str, Any]) -> None:
    """The version before stays loaded: going back to it works with the object store down."""
    await replica.deploy(2, 2)
    replica.objects.down = True
    await replica.deploy(1, 3)
    body = (await replica.client.post(PREDICT, json=row)).json()
    assert (body["version"], body["epoch"]) == (1, 3)


async def test_an_older_epoch_changes_nothing(replica: Any, row: dict[str, Any]) -> None:
    """A pointer read late, or twice, is not obeyed."""
    await replica.deploy(2, 5)
    await replica.deploy(3, 4)
    await replica.deploy(2, 5)
    assert (await replica.client.post(PREDICT, json=row)).json()["epoch"] == 5


@pytest.mark.parametrize("fault", ["bytes", "golden", "not-onnx", "inputs"])
async def test_a_version_that_is_not_what_was_promoted_is_refused(
    replica: Any, promoted: Callable[..., Any], row: dict[str, Any], fault: str
) -> None:
    """Wrong bytes, other golden answers, garbage and other inputs: the version before goes on answering."""
    pointer, held = promoted(replica.objects, 2, 2), replica.objects.held
    if fault == "bytes":
        held[pointer.digest] = held[pointer.digest][:-1] + b"\0"
    elif fault == "golden":
        other = promoted(replica.objects, 9, 9)
        pointer = pointer.model_copy(update={"golden": other.golden})
    elif fault == "not-onnx":
        garbage = replica.objects.put(b"no model at all", "onnx")
        pointer = pointer.model_copy(update={"onnx": garbage, "digest": garbage.sha256})
    else:
        fewer = pointer.signature.model_copy(update={"inputs": pointer.signature.inputs[:-1]})
        pointer = pointer.model_copy(update={"signature": fewer})
    await replica.rollout.deploy(pointer)
    body = (await replica.client.post(PREDICT, json=row)).json()
    assert (body["version"], body["epoch"]) == (1, 1)


async def test_many_callers_get_their_own_answers(
    replica: Any, row: dict[str, Any], says: Callable[..., float]
) -> None:
    """Requests of one tick are one call to the model, and nobody gets another's row."""
    bodies = [row | {"temp": float(one)} for one in range(64)]
    answers = await asyncio.gather(*(replica.client.post(PREDICT, json=body) for body in bodies))
    found = [one.json()["probabilities"]["true"] for one in answers]
    assert found == pytest.approx([says(0.1, one, 1, 1) for one in range(64)], abs=1e-6)


async def test_a_slow_model_runs_beside_the_loop(replica: Any, row: dict[str, Any], says: Callable[..., float]) -> None:
    """A model slower than the loop may wait runs in a thread and answers the same."""
    replica.deployments.current["weather-delays"].engine.seconds_per_row = 1.0
    answers = await asyncio.gather(
        *(replica.client.post(PREDICT, json=[row | {"temp": float(one)}] * 3) for one in range(20))
    )
    for number, answer in enumerate(answers):
        rows = answer.json()["predictions"]
        assert [one["probabilities"]["true"] for one in rows] == pytest.approx([says(0.1, number, 1, 1)] * 3, abs=1e-6)
