"""Composition root of the console."""

from ctloop.platform.service import Service, build_service
from ctloop.platform.settings import Settings
from ctloop_console.api import create_api
from ctloop_console.feed import Feed
from ctloop_console.handlers import HEARS, ConsoleHandlers
from ctloop_console.store import ConsoleStore


def create_app(settings: Settings) -> Service:
    """The console, wired."""
    store, feed = ConsoleStore(), Feed()
    return build_service(
        "console",
        settings,
        handlers=ConsoleHandlers(store, feed.ring),
        hears=HEARS,
        api=create_api(store, feed),
    )
