"""Composition root of training."""

from ctloop.platform.service import Service, build_service
from ctloop.platform.settings import Settings
from ctloop.platform.storage import Objects
from ctloop_training.api import create_api
from ctloop_training.handlers import HEARS, TrainingHandlers
from ctloop_training.jobs import RUNS, TrainingJobs
from ctloop_training.mlflow_runs import MlflowRuns
from ctloop_training.ray_runner import RayRunner
from ctloop_training.store import TrainingStore


def create_app(settings: Settings) -> Service:
    """Training, wired; Ray and MLflow may be down when it starts."""
    objects = Objects(settings.s3)
    mlflow = MlflowRuns(settings.mlflow.url, objects)
    runner = RayRunner(settings.ray, settings.service.data_dir)
    store = TrainingStore()
    return build_service(
        "training",
        settings,
        handlers=TrainingHandlers(store),
        hears=HEARS,
        jobs=TrainingJobs(runner, mlflow, settings.s3),
        runs=RUNS,
        api=create_api(store),
        resources=(objects, mlflow, runner),
    )
