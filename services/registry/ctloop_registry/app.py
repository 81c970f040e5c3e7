"""Composition root of the registry."""

from ctloop.platform.service import Service, build_service
from ctloop.platform.settings import Settings
from ctloop.platform.storage import Objects
from ctloop_registry.api import create_api
from ctloop_registry.handlers import HEARS, RegistryHandlers
from ctloop_registry.jobs import RUNS, RegistryJobs
from ctloop_registry.mlflow_registry import MlflowRegistry
from ctloop_registry.store import RegistryStore


def create_app(settings: Settings) -> Service:
    """The registry, wired; MLflow may be down."""
    objects = Objects(settings.s3)
    mlflow = MlflowRegistry(settings.mlflow.url)
    store = RegistryStore()
    return build_service(
        "registry",
        settings,
        handlers=RegistryHandlers(store),
        hears=HEARS,
        jobs=RegistryJobs(mlflow),
        runs=RUNS,
        api=create_api(store, objects),
        resources=(objects, mlflow),
    )
