"""The probe service on a real Kafka and PostgreSQL: send to it, read its effects, end it by any means."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import httpx
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

import ctloop.local
from ctloop.events.envelope import STRANGERS, Envelope
from ctloop.events.model import DeploymentFailed, ModelDeployed
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.topics import PARTITIONS, dead_letters
from ctloop.platform.settings import KafkaSettings, PostgresSettings, ServiceSettings, Settings

PROBE = Path(__file__).with_name("probe.py")
TOPICS = (ModelDeployed.topic, DeploymentFailed.topic, PipelineReleased.topic, dead_letters("probe"))


@dataclass
class Bench:
    """One prefix, one database, any number of lives of the probe."""

    bootstrap: str
    dsn: str
    prefix: str
    servers_dir: Path
    """Where the data directories of the session's servers are."""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    url: str = ""
    """HTTP face of the process that was started last."""

    def start(self, *, failpoint: str = "", ordinal: int = 0) -> subprocess.Popen[bytes]:
        """A process of the probe, ready or not."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        environment = {
            **os.environ,
            "CTLOOP_KAFKA__BOOTSTRAP": self.bootstrap,
            "CTLOOP_KAFKA__PREFIX": self.prefix,
            "CTLOOP_POSTGRES__DSN": self.dsn,
            "CTLOOP_SERVICE__ORDINAL": str(ordinal),
            "CTLOOP_SERVICE__PORT": str(port),
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

    def settings(self, ordinal: int = 0) -> Settings:
        """Of a probe in this process."""
        return Settings(
            kafka=KafkaSettings(bootstrap=self.bootstrap, prefix=self.prefix),
            postgres=PostgresSettings(dsn=self.dsn),
            service=ServiceSettings(ordinal=ordinal),
        )

    async def ended(self, process: subprocess.Popen[bytes], seconds: float = 40) -> int:
        """Its exit code, once it has ended."""
        return await asyncio.wait_for(asyncio.to_thread(process.wait), seconds)

    async def answers(self) -> None:
        """Wait until the process that was started last is ready."""
        async with httpx.AsyncClient() as client, asyncio.timeout(60):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"{self.url}/readyz")).is_success:
                        return
                await asyncio.sleep(0.1)

    async def frozen(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until it has stopped itself."""
        async with asyncio.timeout(40):
            while not is_stopped(process.pid):
                await asyncio.sleep(0.02)

    async def shared(self, members: int) -> None:
        """Wait until the group has so many members, each with partitions."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            async with asyncio.timeout(60):
                while True:
                    answer: Any = await admin.describe_consumer_groups([f"{self.prefix}probe"])
                    _, _, state, _, _, found, *_ = answer[0].groups[0]
                    if state == "Stable" and len(found) == members:
                        return
                    await asyncio.sleep(0.1)
        finally:
            await admin.close()

    async def kill_server(self, name: str) -> None:
        """kill -9 of Kafka or PostgreSQL; its supervisor starts it again; returns when it answers."""
        folder = self.servers_dir / name[0]
        await asyncio.to_thread(ctloop.local.kill, folder, name)
        async with asyncio.timeout(60):
            while True:
                try:
                    await (self.query("SELECT 1") if name == "postgres" else self.make_topics(()))
                    return
                except (OSError, asyncpg.PostgresError, KafkaError):
                    await asyncio.sleep(0.1)

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

    @staticmethod
    def headers(event: ModelDeployed) -> list[tuple[str, bytes]]:
        """As another service would send it."""
        return envelope_of(event).headers()

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


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by SIGSTOP."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


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
