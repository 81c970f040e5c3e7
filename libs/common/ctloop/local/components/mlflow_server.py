"""MLflow's server as one process: its own command starts ten, and 1.6 GB."""

import importlib
import os
import sys
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

from ctloop.local import state
from ctloop.local.components import probes
from ctloop.local.keys import Keys, read_s3_keys
from ctloop.local.ports import LOOPBACK


def environment(stack: state.Stack) -> dict[str, str]:
    """What MLflow reads when it is imported; the password is in no command line."""
    keys = read_s3_keys(stack.files["s3"])
    password = quote(Keys(stack.data_dir).postgres("mlflow").read_text(), safe="")
    where = urlsplit(stack.urls["postgres"])
    database = f"postgresql+psycopg://mlflow:{password}@{where.hostname}:{where.port or 5432}/mlflow"
    return {
        "_MLFLOW_SERVER_FILE_STORE": database,
        "_MLFLOW_SERVER_REGISTRY_STORE": database,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": "s3://mlflow/artifacts",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "MLFLOW_S3_ENDPOINT_URL": stack.urls["s3"],
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_DEFAULT_REGION": stack.s3_region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "5",
    }


def wait_for_database(stack: state.Stack, seconds: float = 90) -> None:
    """Return when MLflow's database takes its role.

    Raises:
        SystemExit: it does not in time.
    """
    import psycopg

    where = urlsplit(stack.urls["postgres"])
    password = Keys(stack.data_dir).postgres("mlflow").read_text()
    deadline = time.monotonic() + seconds
    while True:
        try:
            probes.tcp(where.hostname or LOOPBACK, where.port or 5432)
            psycopg.connect(
                host=where.hostname,
                port=where.port,
                user="mlflow",
                dbname="mlflow",
                password=password,
                connect_timeout=5,
            ).close()
            return
        except (OSError, psycopg.OperationalError) as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"MLflow's database does not answer: {error}") from error
            time.sleep(0.1)


def main() -> None:
    """``python -m ctloop.local.components.mlflow_server DATA PORT``."""
    data_dir, port = Path(sys.argv[1]), int(sys.argv[2])
    stack = state.read(data_dir)
    if stack is None:
        raise SystemExit(f"no {state.FILE} in {data_dir}")
    os.environ.update(environment(stack))
    server = importlib.import_module("mlflow.server.fastapi_app")  # 5 CPU seconds, while PostgreSQL starts
    handlers = importlib.import_module("mlflow.server.handlers")
    wait_for_database(stack)
    handlers._get_tracking_store()  # migrates: before anybody may ask
    handlers._get_model_registry_store()
    import uvicorn

    uvicorn.run(
        server.app, host=LOOPBACK, port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )


if __name__ == "__main__":
    main()
