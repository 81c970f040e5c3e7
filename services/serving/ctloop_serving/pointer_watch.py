"""Reads the champion pointers every 2 s, or at once when the bus says that one moved."""

import asyncio
import contextlib
import logging

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from ctloop.events.errors import TransientError
from ctloop.events.model import ModelPromoted, ModelRolledBack
from ctloop.events.topics import PARTITIONS
from ctloop_serving.deployments import Deployments
from ctloop_serving.registry_http import RegistryHttp
from ctloop_serving.rollout import Rollout

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
WAKES = (ModelPromoted, ModelRolledBack)
AT_ONCE = 4
"""Models that are brought into service side by side."""


class PointerWatch:
    """Keeps what is served equal to what the registry says; the registry down changes nothing."""

    def __init__(self, registry: RegistryHttp, rollout: Rollout, deployments: Deployments) -> None:
        self._registry, self._rollout, self._deployments = registry, rollout, deployments
        self._moved = asyncio.Event()
        self._turn = asyncio.Semaphore(AT_ONCE)

    def wake(self) -> None:
        """A pointer moved: look now."""
        self._moved.set()

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            self._moved.clear()
            try:
                await self.look()
            except TransientError as error:
                log.info("%s", error, extra={"action": "registry-silent"})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._moved.wait()

    async def look(self) -> None:
        """Read every pointer once and bring into service what moved; one model's failure is raised after all others.

        Raises:
            TransientError: the registry does not list its models.
        """
        models = await self._registry.models()
        moved = [model for model, epoch in models.items() if not epoch or epoch > self._deployments.epoch(model)]
        ended = await asyncio.gather(*(self._look_at(model) for model in moved), return_exceptions=True)
        self._deployments.registry_seen = True
        for error in ended:
            if error is not None:
                raise error

    async def _look_at(self, model: str) -> None:
        async with self._turn:
            try:
                pointer = await self._registry.champion(model)
                if pointer is None:
                    return
                if not self._deployments.epoch(model):
                    self._deployments.loading.add(model)
                await self._rollout.deploy(pointer)
            except TransientError as error:
                log.info("%s", error, extra={"action": "deploy-later", "model": model})


class KafkaWake:
    """Listens at the end of the topics that move traffic: no group, no stored offset; a missed fact costs 2 s."""

    def __init__(self, bootstrap: str, prefix: str, client: str, watch: PointerWatch) -> None:
        self._bootstrap, self._prefix, self._client, self._watch = bootstrap, prefix, client, watch

    async def run(self) -> None:
        """Listen, for ever; Kafka down is tried again."""
        pause = 1.0
        while True:
            try:
                await self._listen()
                pause = 1.0
            except (KafkaError, OSError) as error:
                log.info("kafka: %s", type(error).__name__, extra={"action": "wake-later"})
            await asyncio.sleep(pause)
            pause = min(pause * 2, 10.0)

    async def _listen(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            client_id=self._client,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="latest",
        )
        try:
            await consumer.start()
            consumer.assign(
                [TopicPartition(self._prefix + event.topic, one) for event in WAKES for one in range(PARTITIONS)]
            )
            await consumer.seek_to_end()
            while True:
                if await consumer.getmany(timeout_ms=1000, max_records=100):
                    self._watch.wake()
        finally:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(5):
                    await consumer.stop()
