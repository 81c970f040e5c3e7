"""ctloop: continuous training closed by events. The names a model file and a client need, imported when used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctloop.client import AsyncClient as AsyncClient
    from ctloop.client import Client as Client
    from ctloop.fit import choice as choice
    from ctloop.fit import integer as integer
    from ctloop.fit import log as log
    from ctloop.fit import model as model
    from ctloop.fit import real as real
    from ctloop.record import Record as Record
    from ctloop.record import derive as derive
    from ctloop.record import field as field
    from ctloop.record import label as label

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "ctloop.client",
    "Client": "ctloop.client",
    "Record": "ctloop.record",
    "choice": "ctloop.fit",
    "derive": "ctloop.record",
    "field": "ctloop.record",
    "integer": "ctloop.fit",
    "label": "ctloop.record",
    "log": "ctloop.fit",
    "model": "ctloop.fit",
    "real": "ctloop.fit",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ctloop' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
