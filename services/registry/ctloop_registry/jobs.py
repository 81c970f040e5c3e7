"""What the registry does outside transactions: it keeps MLflow's view of models, versions and the champion."""

from ctloop.events.errors import TransientError
from ctloop.platform.jobs import Lease, runs
from ctloop_registry.handlers import RegistryHandlers
from ctloop_registry.mlflow_registry import MlflowRegistry
from ctloop_registry.projection import ChampionProjected, ProjectChampion, ProjectVersion, VersionProjected


class RegistryJobs:
    """MLflow follows; when it is down, its jobs wait and nothing else does."""

    def __init__(self, mlflow: MlflowRegistry) -> None:
        self.mlflow = mlflow

    async def project_version(self, job: ProjectVersion, lease: Lease) -> VersionProjected:
        """Register the version unless MLflow has it."""
        await self.mlflow.ensure_model(job.model)
        found = await self.mlflow.find_version(job.model, job.version)
        if found is None:
            lease.check()
            tags = {"ctloop.run_id": str(job.run_id), "ctloop.sha256": job.sha256}
            found = await self.mlflow.add_version(
                job.model, job.version, source=job.source, run_id=job.mlflow_run_id, tags=tags
            )
        return VersionProjected(mlflow_version=found)

    async def project_champion(self, job: ProjectChampion, lease: Lease) -> ChampionProjected:
        """Point the alias, unless it shows a later epoch already.

        Raises:
            TransientError: the version is not registered in MLflow yet.
        """
        shown = await self.mlflow.epoch(job.model)
        if shown >= job.epoch:
            return ChampionProjected(epoch=shown)
        found = await self.mlflow.find_version(job.model, job.version)
        if found is None:
            raise TransientError(f"MLflow does not have {job.model}@{job.version} yet")
        lease.check()
        await self.mlflow.point(job.model, found, job.epoch)
        return ChampionProjected(epoch=job.epoch)


RUNS = (
    runs(ProjectVersion, RegistryJobs.project_version, failed=RegistryHandlers.on_projection_failed),
    runs(ProjectChampion, RegistryJobs.project_champion, failed=RegistryHandlers.on_projection_failed),
)
