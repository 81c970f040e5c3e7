"""Composition root of serving."""

from datetime import UTC, datetime

from ctloop.platform.delivery import Edge
from ctloop.platform.service import Service, build_service
from ctloop.platform.settings import Settings
from ctloop_serving.batcher import Batcher
from ctloop_serving.capture import Capture
from ctloop_serving.deployments import Deployments
from ctloop_serving.kafka_facts import KafkaFacts
from ctloop_serving.model_cache import ModelCache
from ctloop_serving.model_objects import ModelObjects
from ctloop_serving.pointer_watch import KafkaWake, PointerWatch
from ctloop_serving.protocol import InferenceProtocol
from ctloop_serving.registry_http import RegistryHttp
from ctloop_serving.rollout import Rollout
from ctloop_serving.runtime import ServingRuntime


def clock() -> datetime:
    """Wall clock, UTC."""
    return datetime.now(UTC)


def create_app(settings: Settings) -> Service:
    """Serving: one replica. It reads and writes no database and joins no group."""
    replica = f"serving-{settings.service.ordinal}"
    kafka = settings.kafka
    registry = RegistryHttp(settings.registry.url)
    facts = KafkaFacts(kafka.bootstrap, kafka.prefix, replica)
    deployments = Deployments()
    rollout = Rollout(
        registry=registry,
        objects=ModelObjects(settings.s3),
        cache=ModelCache(settings.service.data_dir / "models"),
        deployments=deployments,
        facts=facts,
        replica=replica,
        clock=clock,
    )
    watch = PointerWatch(registry, rollout, deployments)
    wake = KafkaWake(kafka.bootstrap, kafka.prefix, f"{replica}-wake", watch)
    capture, batcher = Capture(facts, clock), Batcher()
    protocol = InferenceProtocol(
        deployments=deployments, batcher=batcher, capture=capture, registry=registry, clock=clock
    )

    async def watch_pointers(edge: Edge) -> None:
        await watch.run()

    async def hear_moves(edge: Edge) -> None:
        await wake.run()

    async def ship_captured(edge: Edge) -> None:
        await capture.run()

    return build_service(
        "serving",
        settings,
        database=False,
        hears=(),
        asgi=protocol,
        resources=(registry, facts, ServingRuntime(rollout, capture, batcher)),
        background=(watch_pointers, hear_moves, ship_captured),
        ready=lambda: {} if deployments.ready else {"model": "no verified model is held"},
    )
