"""Composition root of validation."""

from ctloop.platform.service import Service, build_service
from ctloop.platform.settings import Settings
from ctloop.platform.storage import Lake, Objects
from ctloop_validation.api import create_api
from ctloop_validation.handlers import HEARS, ValidationHandlers
from ctloop_validation.jobs import RUNS, ValidationJobs
from ctloop_validation.model_process import ModelProcess
from ctloop_validation.model_store import ModelStore
from ctloop_validation.store import KEEPS, ValidationStore


def create_app(settings: Settings) -> Service:
    """Validation: audits of data, challenges of models."""
    store = ValidationStore()
    objects = Objects(settings.s3)
    model_process = ModelProcess()
    jobs = ValidationJobs(store, objects, Lake(settings.s3), model_process)
    service = build_service(
        "validation",
        settings,
        handlers=ValidationHandlers(store, ModelStore()),
        hears=HEARS,
        jobs=jobs,
        runs=RUNS,
        api=create_api(store),
        resources=(objects, model_process),
        keeps=KEEPS,
    )
    jobs.edge = service.edge
    return service
