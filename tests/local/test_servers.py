"""The fixtures' servers are the real ones."""

import io
from typing import Any

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition
from minio import Minio
from minio.error import S3Error

pytestmark = pytest.mark.stack


async def test_kafka_keeps_what_is_sent(kafka: str, topic_prefix: str) -> None:
    """A record sent with acks=all and idempotence is read again."""
    topic = f"{topic_prefix}facts"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True) as producer:
        await producer.send_and_wait(topic, b"fact", key=b"key")
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek(TopicPartition(topic, 0), 0)
        assert (await consumer.getone()).value == b"fact"


def test_postgres_asks_for_a_password(postgres: str, database: str) -> None:
    """The DSN works, on loopback, in a database of the module's own; a wrong password does not."""
    with psycopg.connect(database) as connection:
        assert connection.execute("SHOW server_version").fetchone() == ("18.6",)
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(database, password="wrong")


def test_s3_checks_who_asks(s3: Any) -> None:
    """An object comes back as it was put; other keys are refused."""
    host = s3.endpoint.removeprefix("http://")
    ours = Minio(host, access_key=s3.access_key, secret_key=s3.secret_key, secure=False, region="us-east-1")
    ours.put_object(s3.bucket, "a/b", io.BytesIO(b"body"), 4)
    assert ours.get_object(s3.bucket, "a/b").read() == b"body"
    for key in ("test", "123456789012", "CTOTHER"):
        theirs = Minio(host, access_key=key, secret_key=s3.secret_key, secure=False, region="us-east-1")
        with pytest.raises(S3Error, match="AccessDenied"):
            theirs.get_object(s3.bucket, "a/b")
    with pytest.raises(S3Error, match="AccessDenied"):
        Minio(host, secure=False, region="us-east-1").get_object(s3.bucket, "a/b")
