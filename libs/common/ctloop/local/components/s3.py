"""The object store."""

from ctloop.local.components import probes
from ctloop.local.components.component import PYTHON, SMALL, Component, Run
from ctloop.local.keys import read_s3_keys
from ctloop.local.ports import LOOPBACK


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
        return Run(
            (*PYTHON, "uvicorn", "--factory", "ctloop.local.components.s3_server:create_app", *where, *how), environment
        )

    def provision(self) -> Run | None:
        return Run((*PYTHON, "ctloop.local.components.provision", "s3", str(self.place.keys.folder.parent)))

    def probe(self) -> None:
        probes.http_answers(self.address + "/", below=500)
