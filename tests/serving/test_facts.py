"""What serving says, on a real Kafka: deployments, failures and captured predictions."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from ctloop.events.data import PREDICTION_COLUMNS, PredictionsServed
from ctloop.events.envelope import Envelope, Event, decode_headers
from ctloop.events.model import DeploymentFailed, ModelDeployed
from ctloop.platform.migrate import make_topics
from ctloop.platform.settings import KafkaSettings
from ctloop_serving.kafka_facts import KafkaFacts

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]
PREDICT = "/v1/models/weather-delays/predict"
Heard = tuple[Envelope, bytes, bytes]


@pytest.fixture
async def bus(kafka: str, topic_prefix: str) -> KafkaSettings:
    """A Kafka with all topics."""
    settings = KafkaSettings(bootstrap=kafka, prefix=topic_prefix)
    await make_topics(settings)
    return settings


@pytest.fixture
async def speaking(
    bus: KafkaSettings, replica_at: Callable[..., Any], objects: Any, tmp_path: Path
) -> AsyncIterator[Any]:
    """A replica that is on the bus."""
    made = replica_at(tmp_path / "models", objects, kafka=bus.bootstrap, prefix=bus.prefix)
    shipping = asyncio.create_task(made.capture.run())
    yield made
    shipping.cancel()
    await made.rollout.close()
    await made.facts.__aexit__()
    await made.client.aclose()


def _envelope(headers: Any) -> Envelope:
    return Envelope.from_headers(decode_headers(headers))


async def said(bus: KafkaSettings, event: type[Event], count: int, seconds: float = 30) -> list[Heard]:
    """The first facts of a kind on the bus."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bus.bootstrap, group_id=None, auto_offset_reset="earliest")
    await consumer.start()
    try:
        parts = [TopicPartition(bus.prefix + event.topic, one) for one in range(4)]
        consumer.assign(parts)
        await consumer.seek_to_beginning()
        found: list[Heard] = []
        async with asyncio.timeout(seconds):
            while len(found) < count:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += [(_envelope(one.headers), one.key, one.value) for one in records]
        return found
    finally:
        await consumer.stop()


async def test_the_first_answer_is_said(speaking: Any, bus: KafkaSettings, row: dict[str, Any]) -> None:
    """A real request closes the loop; the fact carries the promotion's loop, cause and trace."""
    pointer = await speaking.deploy(1, 1)
    await speaking.client.post(PREDICT, json=row)
    [(envelope, key, body)] = await said(bus, ModelDeployed, 1)
    event = ModelDeployed.model_validate_json(body)
    assert (event.version, event.epoch, event.replica, event.golden) == (1, 1, "serving-0", False)
    assert key == b"default|weather-delays"
    assert (envelope.loop_id, envelope.causation_id) == (pointer.loop_id, pointer.event_id)
    assert envelope.traceparent is not None
    assert envelope.traceparent.split("-")[1] == pointer.traceparent.split("-")[1]


async def test_serving_asks_itself_when_nobody_does(speaking: Any, bus: KafkaSettings) -> None:
    """Without a request within a second the golden one is the first answer."""
    await speaking.deploy(1, 1)
    [(_, _, body)] = await said(bus, ModelDeployed, 1)
    assert ModelDeployed.model_validate_json(body).golden


async def test_a_refused_version_is_said(speaking: Any, bus: KafkaSettings, promoted: Callable[..., Any]) -> None:
    """DeploymentFailed names the reason, once per epoch."""
    pointer = promoted(speaking.objects, 2, 2)
    speaking.objects.held[pointer.digest] = b"other bytes"
    await speaking.rollout.deploy(pointer)
    await speaking.rollout.deploy(pointer)
    [(_, _, body)] = await said(bus, DeploymentFailed, 1)
    assert "sha256" in DeploymentFailed.model_validate_json(body).reason


async def test_predictions_are_captured(speaking: Any, bus: KafkaSettings, row: dict[str, Any]) -> None:
    """Each answered prediction is on the bus once, with its id, its version, its output and its inputs."""
    await speaking.deploy(1, 1)
    answers: dict[str, float] = {}
    for number in range(20):
        rows = [row | {"temp": None if one == 0 else float(one), "flight": f"{number}-{one}"} for one in range(5)]
        for one in (await speaking.client.post(PREDICT, json=rows)).json()["predictions"]:
            answers[one["prediction_id"]] = one["probabilities"]["true"]
    captured: dict[str, float] = {}
    for envelope, key, body in await _until(bus, len(answers)):
        assert (envelope.subject, key) == ("weather-delays", b"default|weather-delays")
        table = pa.ipc.open_stream(body).read_all()
        assert table.column_names[: len(PREDICTION_COLUMNS)] == list(PREDICTION_COLUMNS)
        assert table.column("input.temp").null_count == table.num_rows // 5
        assert set(table.column("data_time").to_pylist()) == {table.column("data_time")[0].as_py()}
        captured |= dict(zip(table["prediction_id"].to_pylist(), table["output"].to_pylist(), strict=True))
    assert captured == pytest.approx(answers)


async def _until(bus: KafkaSettings, rows: int) -> list[Heard]:
    """Captured facts, as many as hold this number of rows."""
    for count in range(1, 1000):
        found = await said(bus, PredictionsServed, count)
        if sum(pa.ipc.open_stream(body).read_all().num_rows for _, _, body in found) >= rows:
            return found
    raise AssertionError("never as many rows")


async def test_kafka_down_is_no_reason_to_fail(replica: Any, row: dict[str, Any]) -> None:
    """Without Kafka answers go on; what does not fit the ring is dropped and counted, not waited for."""
    rows = [row] * 16_000
    for _ in range(8):
        assert (await replica.client.post(PREDICT, json=rows)).status_code == 200
    assert replica.capture.dropped == 128_000 - 96_000


def test_a_producer_is_made_on_use() -> None:
    """Nothing connects at construction."""
    KafkaFacts("127.0.0.1:1", "", "serving-0")
