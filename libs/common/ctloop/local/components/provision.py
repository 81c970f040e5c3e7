"""What must be in a server before anybody uses it: databases, a role for MLflow, buckets. A program of its own, so that
the supervisor holds no client libraries."""

import sys
from pathlib import Path
from urllib.parse import urlsplit

from ctloop.local import state
from ctloop.local.keys import Keys, read_s3_keys


def make_databases(stack: state.Stack) -> None:
    """The databases of ctloop and MLflow, and MLflow's role; what is there stays."""
    import psycopg
    from psycopg import sql

    dsn = stack.urls["postgres"]
    password = stack.files["postgres"].read_text().strip()
    ours = urlsplit(dsn).path.strip("/") or "ctloop"
    with psycopg.connect(dsn, password=password, dbname="postgres", autocommit=True, connect_timeout=10) as connection:
        roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
        verb = "ALTER" if "mlflow" in roles else "CREATE"
        secret = Keys(stack.data_dir).postgres("mlflow").read_text()
        connection.execute(
            sql.SQL("{} ROLE mlflow LOGIN PASSWORD {}").format(sql.SQL(verb), sql.Literal(secret))  # type: ignore[arg-type]
        )
        known = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        if ours not in known:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(ours)))
        if "mlflow" not in known:
            connection.execute("GRANT mlflow TO CURRENT_USER")  # to give it a database, where we are no superuser
            connection.execute("CREATE DATABASE mlflow OWNER mlflow")


def make_buckets(stack: state.Stack) -> None:
    """The buckets of ctloop and MLflow; what is there stays."""
    from minio import Minio

    keys = read_s3_keys(stack.files["s3"])
    parts = urlsplit(stack.urls["s3"])
    client = Minio(
        parts.netloc,
        access_key=keys.access_key,
        secret_key=keys.secret_key,
        secure=parts.scheme == "https",
        region=stack.s3_region,
    )
    for bucket in (stack.s3_bucket, "mlflow"):
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket)


def main() -> None:
    """``python -m ctloop.local.components.provision postgres|s3 DATA``."""
    part, data_dir = sys.argv[1:]
    stack = state.read(Path(data_dir))
    if stack is None:
        raise SystemExit(f"no {state.FILE} in {data_dir}")
    {"postgres": make_databases, "s3": make_buckets}[part](stack)


if __name__ == "__main__":
    main()
