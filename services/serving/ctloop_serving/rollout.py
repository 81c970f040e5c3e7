"""From a moved champion pointer to the first answer: fetch, verify, load, swap, say so."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Protocol

from opentelemetry.trace import SpanKind
from prometheus_client import Gauge, Histogram

from ctloop.events.errors import RejectedEvent, TransientError
from ctloop.events.manifest import Manifest
from ctloop.events.model import DeploymentFailed, ModelDeployed
from ctloop.events.pointer import ChampionPointer
from ctloop.events.values import ObjectRef
from ctloop.platform.delivery import traced
from ctloop.platform.spans import current_traceparent, span
from ctloop_serving import onnx_engine
from ctloop_serving.deployments import Deployment, Deployments
from ctloop_serving.domain.schema import request_schema
from ctloop_serving.kafka_facts import KafkaFacts, caused_by
from ctloop_serving.model_cache import CacheDamaged, CachedModel, ModelCache
from ctloop_serving.onnx_engine import ModelRefused, OnnxEngine
from ctloop_serving.registry_http import RegistryHttp

log = logging.getLogger(__name__)
MODEL_INFO = Gauge("ctloop_model_info", "1 for what answers here.", ["model", "version", "alias"])
PROMOTION_SECONDS = Histogram(
    "ctloop_promotion_duration_seconds", "From the moved pointer to the first answer of the version here, in seconds.",
    ["model"], buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
)  # fmt: skip

FIRST_ANSWER_SECONDS = 1.0
"""How long a real request may be waited for before serving asks itself its golden request."""
SAY_AGAIN_SECONDS = 1.0
TRY_AGAIN_SECONDS = 30.0
"""Until an object that was missing or damaged is read again."""
LONG_SECONDS = 0.5
"""Of fetching, after which the pointer is asked for again before the version is brought in."""


class Fetches(Protocol):
    """The object store, as far as serving needs it."""

    async def get(self, ref: ObjectRef) -> bytes: ...


class Rollout:
    """Brings one version of one model into service. Idempotent by epoch."""

    def __init__(
        self,
        *,
        registry: RegistryHttp,
        objects: Fetches,
        cache: ModelCache,
        deployments: Deployments,
        facts: KafkaFacts,
        replica: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._registry, self._objects, self._cache = registry, objects, cache
        self._deployments, self._facts = deployments, facts
        self._replica, self._clock = replica, clock
        self._failed: dict[str, tuple[int, datetime | None]] = {}
        """Epoch that could not be served, and when to try again; None: never."""
        self._saying: set[asyncio.Task[None]] = set()

    async def boot(self) -> None:
        """Serve what the disk cache holds and can prove; damaged entries are left out."""
        for model in self._cache.models():
            try:
                cached = await asyncio.to_thread(self._cache.champion, model)
                await self._swap(cached)
            except (CacheDamaged, ModelRefused, ValueError, OSError) as error:
                log.warning("the cached model is refused: %s", error, extra={"action": "cache-refused", "model": model})

    async def deploy(self, pointer: ChampionPointer) -> None:
        """Make a champion answer, unless it does or its epoch failed before; on failure the earlier one goes on.

        Raises:
            TransientError: something it needs does not answer; try again later.
        """
        if pointer.epoch <= self._deployments.epoch(pointer.model) or self._waits(pointer):
            return
        begun = time.perf_counter()
        try:
            with span(
                f"deploy {pointer.model}", parent=pointer.traceparent, loop_id=pointer.loop_id, attributes=told(pointer)
            ):
                cached = await self._fetch(pointer)
                late = time.perf_counter() - begun >= LONG_SECONDS
                swapped = False if late and await self._overtaken(pointer) else await self._swap(cached)
        except (ModelRefused, RejectedEvent, ValueError) as error:
            self._fail(pointer, error)
            return
        if swapped:
            await asyncio.to_thread(self._keep, cached)

    def _waits(self, pointer: ChampionPointer) -> bool:
        """Whether this epoch, or a later one, failed and is not to be tried yet."""
        epoch, again = self._failed.get(pointer.model, (0, None))
        return pointer.epoch < epoch or (pointer.epoch == epoch and (again is None or self._clock() < again))

    def _fail(self, pointer: ChampionPointer, error: Exception) -> None:
        """The earlier version goes on. What the store holds may be whole again; what a model is stays what it is."""
        again = self._clock() + timedelta(seconds=TRY_AGAIN_SECONDS) if isinstance(error, RejectedEvent) else None
        said = self._failed.get(pointer.model, (0, None))[0] == pointer.epoch
        self._failed[pointer.model] = pointer.epoch, again
        self._deployments.loading.discard(pointer.model)
        log.error(
            "a champion cannot be served: %s", error, extra={"action": "deployment-failed", "model": pointer.model}
        )
        if not said:
            self._in_background(self._say_failed(pointer, str(error)))

    async def _overtaken(self, pointer: ChampionPointer) -> bool:
        """Whether the pointer has moved on; the registry down means no."""
        try:
            now = await self._registry.champion(pointer.model)
        except TransientError:
            return False
        return now is not None and now.epoch > pointer.epoch

    async def close(self) -> None:
        """Give up saying what is not said yet; it is said after the next start."""
        for task in self._saying:
            task.cancel()
        await asyncio.gather(*self._saying, return_exceptions=True)

    async def _fetch(self, pointer: ChampionPointer) -> CachedModel:
        manifest = await self._manifest(pointer.pipeline_digest)
        onnx = await self._object(pointer.onnx)
        if pointer.onnx.sha256 != pointer.digest:
            raise ModelRefused("the pointer's digest is not that of its ONNX object")
        return CachedModel(pointer, manifest, onnx, await self._object(pointer.golden))

    async def _manifest(self, digest: str) -> Manifest:
        found = await asyncio.to_thread(self._cache.manifest, digest)
        return found or await self._registry.manifest(digest)

    async def _object(self, ref: ObjectRef) -> bytes:
        found = await asyncio.to_thread(self._cache.object, ref.sha256)
        return found if found is not None else await self._objects.get(ref)

    async def _swap(self, cached: CachedModel) -> bool:
        started = time.perf_counter()
        pointer = cached.pointer
        onnx_engine.verify(cached.golden, pointer.golden.sha256, "golden")
        engine: OnnxEngine | None = self._deployments.engine_of(pointer.model, pointer.digest)
        if engine is None:
            engine = await asyncio.to_thread(
                onnx_engine.load, cached.onnx, pointer.digest, cached.golden, pointer.signature
            )
        schema = request_schema(pointer.signature, cached.manifest.record)
        deployment = Deployment(pointer, cached.manifest, engine, schema, time.perf_counter() - started)
        answered = asyncio.Event()
        deployment.on_first_answer = answered.set
        if not self._deployments.swap(deployment):
            return False
        log.info(
            "version %d answers", pointer.version,
            extra={"action": "swapped", "model": pointer.model, "loopid": pointer.loop_id},
        )  # fmt: skip
        before = self._deployments.previous.get(pointer.model)
        if before is not None and before.stamp.version != pointer.version:
            MODEL_INFO.remove(pointer.model, str(before.stamp.version), "champion")
        MODEL_INFO.labels(pointer.model, str(pointer.version), "champion").set(1)
        if self._cache.said(pointer.model) < pointer.epoch:
            self._in_background(self._say_deployed(deployment, answered))
        return True

    def _keep(self, cached: CachedModel) -> None:
        """To disk, in an order that leaves a whole entry whenever it stops; a full disk costs the next boot a fetch."""
        try:
            self._cache.keep_object(cached.onnx)
            self._cache.keep_object(cached.golden)
            self._cache.keep_manifest(cached.pointer.pipeline_digest, cached.manifest)
            self._cache.keep_champion(cached.pointer)
            self._cache.sweep(self._needed())
        except OSError as error:
            log.warning("not cached: %s", error, extra={"action": "cache-full", "model": cached.pointer.model})

    def _needed(self) -> set[str]:
        held = [*self._deployments.current.values(), *self._deployments.previous.values()]
        digests = {
            digest
            for one in held
            for digest in (one.pointer.digest, one.pointer.golden.sha256, one.pointer.pipeline_digest)
        }
        return digests | self._cache.referenced()

    async def _say_deployed(self, deployment: Deployment, answered: asyncio.Event) -> None:
        """Wait for the first answer, or be the first to ask; then say ModelDeployed until it is on the bus."""
        pointer = deployment.pointer
        with span(
            f"first answer {pointer.model}",
            parent=pointer.traceparent,
            loop_id=pointer.loop_id,
            attributes=told(pointer),
        ) as made:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_ANSWER_SECONDS):
                    await answered.wait()
            real = deployment.first_answer_at
            if real is None:
                await asyncio.to_thread(deployment.engine.run, deployment.engine.golden, 1)
            made.set_attribute("ctloop.golden", real is None)
        at = real or self._clock()
        exemplar = {"trace_id": pointer.loop_id.hex} if pointer.loop_id else None
        PROMOTION_SECONDS.labels(pointer.model).observe(max(0.0, (at - pointer.since).total_seconds()), exemplar)
        event = ModelDeployed(
            model=pointer.model,
            replica=self._replica,
            version=pointer.version,
            epoch=pointer.epoch,
            first_answer_at=at,
            load_seconds=deployment.load_seconds,
            golden=real is None,
        )
        await self._say(pointer, event)
        await asyncio.to_thread(self._cache.keep_said, pointer.model, pointer.epoch)

    async def _say_failed(self, pointer: ChampionPointer, reason: str) -> None:
        event = DeploymentFailed(
            model=pointer.model,
            replica=self._replica,
            version=pointer.version,
            epoch=pointer.epoch,
            reason=reason[:2000],
        )
        await self._say(pointer, event)

    async def _say(self, pointer: ChampionPointer, event: ModelDeployed | DeploymentFailed) -> None:
        with span(
            f"send {event.topic}", parent=pointer.traceparent, loop_id=pointer.loop_id, kind=SpanKind.PRODUCER,
            attributes={**traced.messaging("send", event.topic), **traced.named(event)},
        ) as send:  # fmt: skip
            envelope = caused_by(pointer, event, self._clock(), current_traceparent())
            for name, value in traced.message(envelope.id, envelope.key, envelope.loop_id).items():
                if value is not None:
                    send.set_attribute(name, value)
            while True:
                try:
                    return await self._facts.say(event, envelope)
                except TransientError as error:
                    log.info("not said yet: %s", error, extra={"action": "say-again", "model": pointer.model})
                    await asyncio.sleep(SAY_AGAIN_SECONDS)

    def _in_background(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._saying.add(task)
        task.add_done_callback(self._saying.discard)


def told(pointer: ChampionPointer) -> dict[str, str | int]:
    """What spans of a rollout say of it."""
    return {
        "ctloop.model.name": pointer.model,
        "ctloop.model.version": pointer.version,
        "ctloop.epoch": pointer.epoch,
        "ctloop.run.id": str(pointer.run_id),
    }
