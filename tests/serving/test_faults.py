"""What serving does when a disk is full, an object is damaged for a while, the pointer moves while it loads, and a batch
cannot be packed."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ctloop.events.errors import ObjectMismatch
from ctloop_serving import rollout as rollouts
from ctloop_serving.pointer_watch import PointerWatch

PREDICT = "/v1/models/weather-delays/predict"


async def version(replica: Any, row: dict[str, Any]) -> int:
    return (await replica.client.post(PREDICT, json=row)).json()["version"]


async def test_a_full_disk_does_not_stop_what_is_served(replica: Any, row: dict[str, Any]) -> None:
    """The new version answers; only the next boot has to fetch it again."""
    champions = replica.cache._champions
    (champions / "weather-delays.json").unlink()
    champions.rename(champions.with_name("gone"))
    champions.touch()  # a file where the folder was: writing fails as on a full disk
    await replica.deploy(2, 2)
    assert await version(replica, row) == 2


async def test_an_object_that_is_whole_again_is_served(
    replica: Any, row: dict[str, Any], promoted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged read is a failure that is said, and tried again later; not with every look."""
    pointer, get, now = promoted(replica.objects, 2, 2), replica.objects.get, datetime(2026, 1, 1, tzinfo=UTC)
    asked = 0

    async def damaged(ref: Any) -> bytes:
        nonlocal asked
        asked += 1
        raise ObjectMismatch("other bytes")

    monkeypatch.setattr(replica.objects, "get", damaged)
    monkeypatch.setattr(replica.rollout, "_clock", lambda: now)
    for _ in range(3):
        await replica.rollout.deploy(pointer)
    assert asked == 1 and await version(replica, row) == 1
    monkeypatch.setattr(replica.objects, "get", get)
    now += timedelta(seconds=rollouts.TRY_AGAIN_SECONDS)
    await replica.rollout.deploy(pointer)
    assert await version(replica, row) == 2


async def test_a_rollback_while_loading_wins(
    replica: Any, row: dict[str, Any], promoted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What took long to fetch is not brought in when the pointer has moved on meanwhile."""
    bad, back = promoted(replica.objects, 2, 2), promoted(replica.objects, 1, 3)
    get, fetching, go_on = replica.objects.get, asyncio.Event(), asyncio.Event()

    async def slow(ref: Any) -> bytes:
        fetching.set()
        await go_on.wait()
        return await get(ref)

    async def champion(model: str) -> Any:
        return back

    monkeypatch.setattr(replica.objects, "get", slow)
    monkeypatch.setattr(replica.registry, "champion", champion)
    monkeypatch.setattr(rollouts, "LONG_SECONDS", 0.0)
    loading = asyncio.create_task(replica.rollout.deploy(bad))
    await fetching.wait()
    go_on.set()
    await loading
    assert replica.deployments.epoch("weather-delays") == 1 and await version(replica, row) == 1
    await replica.rollout.deploy(back)
    assert replica.deployments.epoch("weather-delays") == 3


async def test_one_model_s_bug_is_not_the_others(replica: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look brings in every other model, knows the registry, and fails afterwards: the loop logs it and looks again."""
    looked: list[str] = []

    async def models() -> dict[str, int]:
        return {"a": 1, "b": 1}

    async def champion(model: str) -> Any:
        if model == "a":
            raise RuntimeError("a bug")
        await asyncio.sleep(0)
        looked.append(model)

    monkeypatch.setattr(replica.registry, "models", models)
    monkeypatch.setattr(replica.registry, "champion", champion)
    with pytest.raises(RuntimeError, match="a bug"):
        await PointerWatch(replica.registry, replica.rollout, replica.deployments).look()
    assert looked == ["b"] and replica.deployments.registry_seen


async def test_a_batch_that_cannot_be_packed_takes_no_room(replica: Any, row: dict[str, Any]) -> None:
    """It is dropped and counted; the ring has its rows back, so capture does not stop for good."""
    (await replica.client.post(PREDICT, json=[row] * 3)).raise_for_status()
    capture = replica.capture
    capture._ring[0].ids = ["one id too few"]
    with pytest.raises(ValueError):
        await capture.ship()
    assert (capture._rows, capture.dropped) == (0, 3)
