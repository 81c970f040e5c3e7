"""Composition root of ingestion."""

from ctloop.platform.service import Service, build_service
from ctloop.platform.settings import Settings
from ctloop.platform.storage import Objects
from ctloop_ingestion.api import create_api
from ctloop_ingestion.handlers import HEARS, IngestionHandlers
from ctloop_ingestion.jobs import RUNS, IngestionJobs
from ctloop_ingestion.kafka_door import KafkaDoor
from ctloop_ingestion.store import KEEPS, IngestionStore


def create_app(settings: Settings) -> Service:
    """Ingestion: the door, coalescing, staging."""
    store = IngestionStore()
    objects = Objects(settings.s3)
    door = KafkaDoor(settings.kafka.bootstrap, settings.kafka.prefix)
    jobs = IngestionJobs(store, objects)
    service = build_service(
        "ingestion",
        settings,
        handlers=IngestionHandlers(store),
        hears=HEARS,
        jobs=jobs,
        runs=RUNS,
        api=create_api(store, door),
        resources=(objects, door),
        keeps=KEEPS,
    )
    jobs.edge = service.edge
    return service
