"""The one set of variables that migrate and the services are started with."""

import os

from ctloop.local.keys import Keys
from ctloop.local.ports import LOOPBACK
from ctloop.local.state import Stack

SERVICES = ("ingestion", "validation", "training", "registry", "serving", "monitoring", "console")
SMALL = {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1"}


def service_environment(stack: Stack, name: str) -> dict[str, str]:
    """The environment of a service, or of ``migrate``, on top of ours (so that ``OTEL_*`` and the like get through)."""
    return {
        **os.environ,
        **SMALL,
        **_servers(stack),
        **(_migration(stack) if name == "migrate" else _login(stack, name)),
        **{f"CTLOOP_{service.upper()}__URL": stack.urls[service] for service in SERVICES if service in stack.urls},
        "CTLOOP_SERVICE__HOST": LOOPBACK,
        "CTLOOP_SERVICE__PORT": str(stack.ports.get(name, 0)),
        "CTLOOP_SERVICE__ORDINAL": "0",
        "CTLOOP_SERVICE__DATA_DIR": str(stack.data_dir / name),
    }


def _servers(stack: Stack) -> dict[str, str]:
    variables = {
        "CTLOOP_KAFKA__BOOTSTRAP": stack.urls["kafka"],
        "CTLOOP_KAFKA__PREFIX": stack.kafka_prefix,
        "CTLOOP_S3__ENDPOINT": stack.urls["s3"],
        "CTLOOP_S3__KEYS_FILE": str(stack.files["s3"]),
        "CTLOOP_S3__BUCKET": stack.s3_bucket,
        "CTLOOP_S3__REGION": stack.s3_region,
        "CTLOOP_MLFLOW__URL": stack.urls["mlflow"],
        "CTLOOP_RAY__ADDRESS": stack.urls["ray"],
    }
    if "ray" in stack.files:
        variables["CTLOOP_RAY__TOKEN_FILE"] = str(stack.files["ray"])
    return variables


def _migration(stack: Stack) -> dict[str, str]:
    return {
        "CTLOOP_POSTGRES__DSN": stack.urls["postgres"],
        "CTLOOP_POSTGRES__PASSWORD_FILE": str(stack.files["postgres"]),
        "CTLOOP_POSTGRES__ROLES_FILE": str(Keys(stack.data_dir).roles),
    }


def _login(stack: Stack, name: str) -> dict[str, str]:
    scheme, _, rest = stack.urls["postgres"].partition("://")
    return {
        "CTLOOP_POSTGRES__DSN": f"{scheme}://{name}@{rest.rpartition('@')[2]}",
        "CTLOOP_POSTGRES__PASSWORD_FILE": str(Keys(stack.data_dir).postgres(name)),
    }
