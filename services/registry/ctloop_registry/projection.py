"""The work that makes MLflow show what the registry knows. MLflow is never read for a decision."""

from datetime import timedelta
from typing import ClassVar, Self
from uuid import UUID

from ctloop.events.model import ModelValidated
from ctloop.platform.jobs import Job, JobEnd


class Projection(Job):
    """MLflow work of one model, one at a time; MLflow down is tried again for about a day."""

    lane: ClassVar[str] = "mlflow"
    deadline: ClassVar[timedelta] = timedelta(minutes=2)
    max_attempts: ClassVar[int] = 500

    model: str
    version: int

    @property
    def lane_key(self) -> str:
        return self.model


class ProjectVersion(Projection):
    """Register a version."""

    kind: ClassVar[str] = "project-version"
    run_id: UUID
    mlflow_run_id: str | None
    source: str
    sha256: str

    @classmethod
    def of(cls, said: ModelValidated, version: int) -> Self:
        """What MLflow is told of a judged version."""
        return cls(
            model=said.model,
            version=version,
            run_id=said.run_id,
            mlflow_run_id=said.mlflow_run_id,
            source=said.onnx.uri,
            sha256=said.onnx.sha256,
        )


class ProjectChampion(Projection):
    """Point the alias champion to a version, unless a later epoch has done so."""

    kind: ClassVar[str] = "project-champion"
    epoch: int


class VersionProjected(JobEnd):
    """MLflow has the version, under its own number."""

    mlflow_version: str


class ChampionProjected(JobEnd):
    """MLflow's alias shows this epoch, or a later one."""

    epoch: int
