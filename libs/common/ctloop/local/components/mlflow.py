"""The tracking server."""

from ctloop.local.components import probes
from ctloop.local.components.component import PYTHON, SMALL, Component, Run
from ctloop.local.ports import LOOPBACK


class Mlflow(Component):
    """MLflow's server in one process; it imports while PostgreSQL starts."""

    name = "mlflow"
    listens = ("mlflow",)
    start_seconds = 180

    @property
    def address(self) -> str:
        return self.yours or f"http://{LOOPBACK}:{self.place.port}"

    def prepare(self) -> None:
        self.place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def run(self) -> Run:
        data_dir = self.place.keys.folder.parent
        argv = (*PYTHON, "ctloop.local.components.mlflow_server", str(data_dir), str(self.place.port))
        return Run(argv, {"LC_ALL": "C.UTF-8", "HOME": str(self.place.folder), **SMALL})

    def probe(self) -> None:
        probes.http_answers(self.address + "/health")
