"""Which port each part listens on: one table of offsets from a base that is set, remembered, or found free."""

import contextlib
import socket
from collections.abc import Iterable, Mapping

from ctloop.problems import Problem

OFFSETS: Mapping[str, int] = {
    "serving": 0,
    "console": 1,
    "registry": 2,
    "ingestion": 3,
    "validation": 4,
    "training": 5,
    "monitoring": 6,
    "kafka": 10,
    "kafka-controller": 11,
    "postgres": 12,
    "s3": 13,
    "mlflow": 14,
    "ray": 20,
    "ray-node-manager": 21,
    "ray-object-manager": 22,
    "ray-agent": 23,
    "ray-runtime-env": 24,
    "ray-metrics": 25,
    "ray-metrics-agent": 26,
    "ray-workers": 40,
}
SPAN = 80
"""Ports from the base on; the last half are Ray's workers'."""
PREFERRED = 18080
CEILING = 32768 - SPAN
"""From 32768 on, outgoing connections may take a port between two starts."""
LOOPBACK = "127.0.0.1"


def ports_of(base: int) -> dict[str, int]:
    """Every port by name."""
    return {name: base + offset for name, offset in OFFSETS.items()}


def is_free(port: int) -> bool:
    """Whether a server could listen there on loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return True
    return False


def find_base() -> int:
    """A base with all its ports free.

    Raises:
        Problem: CT9102, there is none.
    """
    for base in range(PREFERRED, CEILING, 100):
        if all(is_free(port) for port in ports_of(base).values()):
            return base
    raise Problem("CT9102", f"no {SPAN} free ports between {PREFERRED} and {CEILING}")


def refuse_taken(ports: Mapping[str, int], names: Iterable[str]) -> None:
    """Say which part cannot start because somebody else has its port.

    Raises:
        Problem: CT9102.
    """
    for name in names:
        if not is_free(ports[name]):
            raise Problem(
                "CT9102",
                f"{name} cannot start: port {ports[name]} is in use by another program",
                f"Stop it (ss -ltnp 'sport = :{ports[name]}' shows it), or choose other ports: CTLOOP_PORT_BASE=19000",
            )
