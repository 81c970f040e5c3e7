"""The disk cache: serving boots and answers with nothing else up, and never from damaged bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PREDICT = "/v1/models/weather-delays/predict"


async def test_it_boots_with_everything_down(
    replica: Any, replica_at: Callable[..., Any], tmp_path: Path, row: dict[str, Any]
) -> None:
    """Registry, Kafka and object store down: the last verified champion answers under its epoch."""
    await replica.deploy(2, 2)
    replica.objects.down = True
    again = replica_at(tmp_path / "models", replica.objects)
    assert not again.deployments.ready
    await again.rollout.boot()
    answer = await again.client.post(PREDICT, json=row)
    assert answer.status_code == 200
    assert (answer.json()["version"], answer.json()["epoch"]) == (2, 2)
    assert (await again.client.get("/v2/health/ready")).status_code == 200
    await again.rollout.close()


@pytest.mark.parametrize("what", ["onnx", "golden", "pointer", "manifest"])
async def test_a_damaged_cache_is_refused(
    replica: Any, replica_at: Callable[..., Any], tmp_path: Path, row: dict[str, Any], what: str
) -> None:
    """One flipped byte in any cached file: the entry is not served, and the next look heals it."""
    folder = tmp_path / "models"
    pointer = replica.deployments.current["weather-delays"].pointer
    path = {
        "onnx": folder / "objects" / pointer.digest,
        "golden": folder / "objects" / pointer.golden.sha256,
        "manifest": folder / "objects" / f"{pointer.pipeline_digest}.manifest",
        "pointer": folder / "champions" / "weather-delays.json",
    }[what]
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    again = replica_at(folder, replica.objects)
    path.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    await again.rollout.boot()
    assert (await again.client.post(PREDICT, json=row)).status_code == 404
    if what != "manifest":  # its source, the registry, is down here
        await again.rollout.deploy(pointer)
        assert (await again.client.post(PREDICT, json=row)).status_code == 200
    await again.rollout.close()


async def test_the_cache_forgets_what_nobody_needs(replica: Any, tmp_path: Path) -> None:
    """After many versions the bytes of the champion and the one before it are left."""
    for version in range(2, 9):
        await replica.deploy(version, version)
    kept = {path.name for path in (tmp_path / "models" / "objects").iterdir()}
    held = [replica.deployments.current["weather-delays"], replica.deployments.previous["weather-delays"]]
    assert kept >= {one.pointer.digest for one in held}
    assert len(kept) == 5  # two models, two goldens, one manifest
