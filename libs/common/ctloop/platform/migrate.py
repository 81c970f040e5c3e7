"""Make what services need before they start: topics, roles, schemas. Run by ``ctloop up``; a service never migrates."""

import asyncio
import contextlib
import hashlib
import importlib.util
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from ctloop.events.topics import FACTS, PARTITIONS, SERVICES, dead_letters
from ctloop.platform import pipelines
from ctloop.platform.delivery import SCHEMA as DELIVERY_SCHEMA
from ctloop.platform.jobs import SCHEMA as JOBS_SCHEMA
from ctloop.platform.settings import KafkaSettings, PostgresSettings, S3Settings, Settings
from ctloop.problems import Exit

log = logging.getLogger(__name__)

DAY_MS = 24 * 3600 * 1000
MLFLOW_BUCKET = "mlflow"
STATELESS = ("serving",)
"""Services without a database."""


class OtherVersion(Exception):
    """A schema holds tables that are not those of this version."""


async def make_topics(kafka: KafkaSettings) -> None:
    """Create every topic of the contract that is missing; an existing one is left as it is."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        days = {fact.event.topic: fact.retention_days for fact in FACTS}
        days |= {dead_letters(service): 7 for service in SERVICES if service not in STATELESS}
        known = set(await admin.list_topics())
        wanted = [
            NewTopic(
                f"{kafka.prefix}{name}",
                PARTITIONS,
                kafka.replication,
                topic_configs={
                    "cleanup.policy": "delete",
                    "retention.ms": str(kept * DAY_MS),
                    "max.message.bytes": str(1 << 20),
                },
            )
            for name, kept in days.items()
            if f"{kafka.prefix}{name}" not in known
        ]
        if wanted:
            _refuse_failures(await admin.create_topics(wanted, timeout_ms=20_000))
    finally:
        await admin.close()


def _refuse_failures(response: object) -> None:
    for name, code, *_ in getattr(response, "topic_errors", ()):
        error: type[KafkaError] = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise error(f"topic {name} could not be created")


def service_schema(service: str) -> str:
    """The service's own tables, from its schema.sql; empty when it has none."""
    spec = importlib.util.find_spec(f"ctloop_{service}")
    if spec is None or spec.origin is None:
        return ""
    path = Path(spec.origin).with_name("schema.sql")
    return path.read_text() if path.exists() else ""


async def make_schema(connection: "asyncpg.Connection[asyncpg.Record]", service: str, password: str | None) -> None:
    """One schema and login role of a service: delivery tables first, then its own. Runs again without harm.

    The role owns nothing: it reads and writes rows, and changes no table. The schema's comment names what made it.

    Raises:
        OtherVersion: it was made from other SQL than this version's.
    """
    parts = (DELIVERY_SCHEMA, JOBS_SCHEMA, pipelines.SCHEMA, service_schema(service))
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('ctloop.migrate'))")
        made = await connection.fetchrow(
            "SELECT obj_description(oid, 'pg_namespace') AS digest FROM pg_namespace WHERE nspname = $1", service
        )
        if made is not None and made["digest"] != digest:
            raise OtherVersion(f"the tables of {service} were made by another version of ctloop")
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", service):
            await connection.execute(f'CREATE ROLE "{service}" LOGIN')
        if password is not None:
            quoted = await connection.fetchval("SELECT quote_literal($1::text)", password)
            await connection.execute(f'ALTER ROLE "{service}" PASSWORD {quoted}')
        await connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{service}"')
        await connection.execute(f'SET LOCAL search_path = "{service}"')
        for sql in parts:
            if sql.strip():
                await connection.execute(sql)
        await connection.execute(f"""COMMENT ON SCHEMA "{service}" IS '{digest}'""")
        await connection.execute(
            f'''GRANT USAGE ON SCHEMA "{service}" TO "{service}";
                GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA "{service}" TO "{service}";
                GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA "{service}" TO "{service}";
                ALTER ROLE "{service}" SET search_path = "{service}"'''
        )


async def make_schemas(postgres: PostgresSettings, roles: Mapping[str, str]) -> None:
    """The schemas of all services with a database."""
    connection = await asyncpg.connect(postgres.dsn, password=postgres.password())
    try:
        await connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        for service in SERVICES:
            if service not in STATELESS:
                await make_schema(connection, service, roles.get(service))
    finally:
        await connection.close()


def make_buckets(s3: S3Settings, names: tuple[str, ...]) -> None:
    """Create the buckets that are missing."""
    from minio import Minio

    keys = s3.keys()
    client = Minio(
        s3.endpoint.split("://")[-1],
        access_key=keys.access_key,
        secret_key=keys.secret_key.get_secret_value(),
        secure=s3.endpoint.startswith("https"),
        region=s3.region,
    )
    for name in names:
        if not client.bucket_exists(bucket_name=name):
            client.make_bucket(bucket_name=name)


async def migrate(settings: Settings) -> None:
    """Topics, schemas and buckets, side by side."""
    await asyncio.gather(
        make_topics(settings.kafka),
        make_schemas(settings.postgres, settings.postgres.roles()),
        asyncio.to_thread(make_buckets, settings.s3, (settings.s3.bucket, MLFLOW_BUCKET)),
    )
    log.info("topics, schemas and buckets are there")


def main() -> None:
    """Entry of ``python -P -m ctloop.platform.migrate``."""
    logging.basicConfig(level=logging.INFO)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(migrate(Settings()))
    except OtherVersion as error:
        log.error("%s", error)
        sys.exit(int(Exit.CONFLICT))


if __name__ == "__main__":
    main()
