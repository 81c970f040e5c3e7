"""The probe service on a real Kafka and PostgreSQL: send to it, read its effects, end it by any means."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ctloop.events.envelope import STRANGERS, Envelope
from ctloop.events.model import DeploymentFailed, ModelDeployed
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.topics import PARTITIONS, dead_letters

PROBE = Path(__file__).with_name("probe.py")
TOPICS = (ModelDeployed.topic, DeploymentFailed.topic, PipelineReleased.topic, dead_letters("probe"))


@dataclass
class Bench:
    """One prefix, one database, any number of lives of the probe."""

    bootstrap: str
    dsn: str
    prefix: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *, failpoint: str = "", ordinal: int = 0) -> subprocess.Popen[bytes]:
        """A process of the probe, ready or not."""
        environment = {
            **os.environ,
            "CTLOOP_KAFKA__BOOTSTRAP": self.bootstrap,
            "CTLOOP_KAFKA__PREFIX": self.prefix,
            "CTLOOP_POSTGRES__DSN": self.dsn,
            "CTLOOP_SERVICE__ORDINAL": str(ordinal),
            "CTLOOP_FAILPOINT": failpoint,
            "PGOPTIONS": "",
        }
        process = subprocess.Popen([sys.executable, "-P", str(PROBE)], env=environment, stdout=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def kill(self) -> None:
        """kill -9 all of them."""
        for process in self.processes:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()

    async def connect(self) -> Any:
        return await asyncpg.connect(self.dsn, server_settings={"search_path": "probe"})

    async def query(self, sql: str, *arguments: object) -> list[Any]:
        connection = await self.connect()
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    async def until(self, condition: Callable[[list[Any]], bool], sql: str, seconds: float = 60) -> list[Any]:
        """Wait for a fact in the database."""
        connection = await self.connect()
        try:
            async with asyncio.timeout(seconds):
                while not condition(rows := await connection.fetch(sql)):
                    await asyncio.sleep(0.05)
                return rows
        finally:
            await connection.close()

    async def send(self, events: Iterable[ModelDeployed], *, twice: bool = False) -> list[UUID]:
        """Send facts as another service would; ids are derived, so sending again is sending the same."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all", enable_idempotence=True)
        await producer.start()
        ids: list[UUID] = []
        try:
            for event in events:
                envelope = envelope_of(event)
                for _ in range(2 if twice else 1):
                    await producer.send(
                        self.prefix + event.topic,
                        event.model_dump_json().encode(),
                        key=envelope.key,
                        headers=envelope.headers(),
                    )
                ids.append(envelope.id)
            await producer.flush()
        finally:
            await producer.stop()
        return ids

    async def send_raw(self, value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes]]) -> None:
        """Send whatever bytes."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
        await producer.start()
        try:
            await producer.send_and_wait(self.prefix + ModelDeployed.topic, value, key=key, headers=headers)
        finally:
            await producer.stop()

    async def remake_topic(self, name: str) -> None:
        """Delete a topic and make it anew, under the same name."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.delete_topics([self.prefix + name])
            async with asyncio.timeout(30):
                while self.prefix + name in await admin.list_topics():
                    await asyncio.sleep(0.1)
                made = False
                while not made:
                    answer: Any = await admin.create_topics([NewTopic(self.prefix + name, PARTITIONS, 1)])
                    made = not answer.topic_errors[0][1]
        finally:
            await admin.close()

    async def make_topics(self, names: Iterable[str] = TOPICS) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(self.prefix + name, PARTITIONS, 1) for name in names])
        finally:
            await admin.close()


def deployed(model: str, epoch: int, replica: str = "serving-0") -> ModelDeployed:
    """A fact of the tests."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return ModelDeployed(
        model=model, replica=replica, version=1, epoch=epoch, first_answer_at=at, load_seconds=0.0, golden=True
    )


def envelope_of(event: ModelDeployed) -> Envelope:
    return Envelope(
        id=uuid5(STRANGERS, event.discriminator),
        source="/ctloop/serving",
        type=event.type(),
        subject=event.subject,
        time=event.first_answer_at,
    )
