"""Composition root of monitoring."""

from ctloop.platform.service import Service, build_service
from ctloop.platform.settings import Settings
from ctloop.platform.storage import Lake, Objects
from ctloop_monitoring.api import create_api
from ctloop_monitoring.handlers import HEARS, MonitoringHandlers
from ctloop_monitoring.jobs import RUNS, MonitoringJobs
from ctloop_monitoring.store import MonitoringStore
from ctloop_monitoring.store_reader import WatchReader
from ctloop_monitoring.watching import Watching


def create_app(settings: Settings) -> Service:
    """Monitoring: windows, drift, episodes."""
    objects = Objects(settings.s3)
    return build_service(
        "monitoring",
        settings,
        handlers=MonitoringHandlers(Watching(MonitoringStore())),
        hears=HEARS,
        jobs=MonitoringJobs(objects, Lake(settings.s3)),
        runs=RUNS,
        api=create_api(WatchReader()),
        resources=(objects,),
    )
