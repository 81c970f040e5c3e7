"""The wiring every service shares: consume loop, relay, parking, jobs, HTTP face, health; one process, one service."""

import asyncio
import importlib
import logging
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, cast

import asyncpg
import uvicorn
from aiokafka.errors import KafkaError
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from ctloop.events.envelope import Event
from ctloop.events.errors import TransientError
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.topics import BY_EVENT, FACTS
from ctloop.platform import pipelines
from ctloop.platform.bounded_http import BoundedHttp
from ctloop.platform.delivery import retention
from ctloop.platform.delivery.chunks import Chunks
from ctloop.platform.delivery.consume import ConsumeLoop
from ctloop.platform.delivery.dead_letters import count_dead, dead_letter_api
from ctloop.platform.delivery.disposition import DATABASE_GONE, UNSTORABLE
from ctloop.platform.delivery.edge import Edge, being_cancelled
from ctloop.platform.delivery.hears import Hears, Refused, on, said_types
from ctloop.platform.delivery.liveness import Liveness
from ctloop.platform.delivery.parking import Parking
from ctloop.platform.delivery.relay import Relay
from ctloop.platform.delivery.retention import Kept
from ctloop.platform.http import ProblemResponse, install_problems, problem
from ctloop.platform.jobs.job import Runs, Timer
from ctloop.platform.jobs.runner import JobRunner
from ctloop.platform.settings import Settings
from ctloop.platform.telemetry import END_SECONDS, start_logs, start_traces, within
from ctloop.problems import CATALOGUE

log = logging.getLogger("ctloop.service")
ApiFactory = Callable[[Edge], APIRouter]
Background = Callable[[Edge], Awaitable[None]]
PASSING = (*DATABASE_GONE, TransientError, KafkaError)
"""What an API answers with 503: asking again is right."""
POOL_SIZE = 4
STOP_SECONDS, CANCEL_SECONDS = 15.0, 3.0
RESTART_SECONDS = 1.0
SERVER_SETTINGS = {
    "statement_timeout": "10s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "10s",
    "transaction_timeout": "60s",
    "tcp_keepalives_idle": "15",
    "application_name": "ctloop",
}


def reads(scope: Mapping[str, Any]) -> bool:
    """Whether a request changes nothing: it gets no span. Nor does a data path of serving's own, whatever it is asked."""
    return scope.get("method") in ("GET", "HEAD", None)


class Service:
    """A built service: closed until its app's lifespan opens it."""

    def __init__(  # noqa: PLR0913 build_service is its only caller
        self,
        name: str,
        settings: Settings,
        *,
        edge: Edge,
        hears: Sequence[Hears],
        handlers: object,
        jobs: object,
        runs: Sequence[Runs],
        resources: Sequence[AbstractAsyncContextManager[Any]],
        background: Sequence[Background],
        database: bool,
        keeps: Sequence[Kept],
    ) -> None:
        self.name, self.settings, self.edge, self.database = name, settings, edge, database
        self.hears, self.handlers, self.jobs, self.runs = hears, handlers, jobs, runs
        self.resources, self.background = resources, background
        self.keeps = (*retention.DELIVERY, *keeps)
        self.liveness = Liveness()
        self._stops: list[Callable[[], None]] = []
        self.app = FastAPI(
            title=f"ctloop {name}", version="1", lifespan=self._lifespan, docs_url="/docs",
            telemetry={"tracing": database, "operation_spans": False, "metrics": False, "logs": False, "exclude": reads},
        )  # fmt: skip

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document of its HTTP face."""
        return self.app.openapi()

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            for resource in self.resources:
                await stack.enter_async_context(resource)
            if self.database:
                pool = await stack.enter_async_context(self._pool())
                self.edge.open(pool)
            tasks = self._start_loops()
            try:
                yield
            finally:
                await self._stop_loops(tasks)

    def _pool(self) -> Any:
        postgres = self.settings.postgres
        return asyncpg.create_pool(
            postgres.dsn,
            password=postgres.password(),
            min_size=1,
            max_size=POOL_SIZE,
            command_timeout=10,
            max_inactive_connection_lifetime=60,
            server_settings=SERVER_SETTINGS,
        )

    async def _connect(self) -> Any:
        """A connection of its own, never pooled: for listening and for the relay's lock."""
        postgres = self.settings.postgres
        async with asyncio.timeout(5):
            return await asyncpg.connect(postgres.dsn, password=postgres.password(), command_timeout=10)

    def _start_loops(self) -> list[asyncio.Task[None]]:
        loops: dict[str, Callable[[], Awaitable[None]]] = {}
        if self.database:
            loops |= self._delivery_loops()
        for one in self.background:
            loops[getattr(one, "__name__", "background")] = lambda one=one: one(self.edge)
        return [asyncio.create_task(self._keep(name, run), name=name) for name, run in loops.items()]

    def _delivery_loops(self) -> dict[str, Callable[[], Awaitable[None]]]:
        kafka, ordinal = self.settings.kafka, self.settings.service.ordinal
        topics = {one.event.topic: one for one in self.hears if one.event in BY_EVENT}
        relay = Relay(kafka.bootstrap, self._connect, self.edge.outbox_channel, f"relay.{self.name}", self.liveness)
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "relay": relay.run,
            "sweep": lambda: retention.keep_sweeping(self.edge, self.keeps),
        }
        self._stops.append(relay.stop)
        if topics:
            chunks = Chunks(self.edge)
            consume = ConsumeLoop(kafka.bootstrap, topics, chunks, self.liveness, ordinal)
            parking = Parking(chunks, topics, self.liveness)
            loops |= {"consume": consume.run, "parking": parking.run}
            self._stops[:0] = [consume.stop, parking.stop]
        timers = {one.event.kind: one.event for one in self.hears if issubclass(one.event, Timer)}
        if self.runs or timers:
            runner = JobRunner(
                self.edge, {one.job.kind: one for one in self.runs}, timers, self.jobs, handlers=self.handlers,
                connect=self._connect, liveness=self.liveness, ordinal=ordinal,
            )  # fmt: skip
            loops["jobs"] = runner.run
            self._stops.insert(0, runner.stop)
        return loops

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """A loop that ends by a failure is started again; its silence shows in /livez."""
        while True:
            try:
                await run()
                return
            except (Exception, asyncio.CancelledError) as error:
                if being_cancelled():
                    raise
                log.exception("loop %s failed, it starts again", name, extra={"action": "loop-failed"})
                self.liveness.failed(name, f"it failed and starts again: {type(error).__name__}")
                await asyncio.sleep(RESTART_SECONDS)

    async def _stop_loops(self, tasks: list[asyncio.Task[None]]) -> None:
        for stop in self._stops:
            stop()
        own = [task for task in tasks if task.get_name() in ("relay", "consume", "parking", "jobs")]
        for task in tasks:
            if task not in own:
                task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=CANCEL_SECONDS)


def build_service(  # noqa: PLR0913 the one place a service is put together; all by keyword
    name: str,
    settings: Settings,
    *,
    handlers: object = None,
    hears: Sequence[Hears] = (),
    jobs: object = None,
    runs: Sequence[Runs] = (),
    api: ApiFactory | None = None,
    resources: Sequence[AbstractAsyncContextManager[Any]] = (),
    background: Sequence[Background] = (),
    database: bool = True,
    asgi: Any = None,
    ready: Callable[[], dict[str, str]] | None = None,
    keeps: Sequence[Kept] = (),
) -> Service:
    """Put a service together; nothing is opened yet.

    ``keeps``: for how long rows of its own tables are kept, where not for ever.
    ``asgi``: an ASGI app that gets every path the platform's own routes do not claim. ``ready``: findings of the
    service's own that make it not ready. ``database=False``: no pool, no consume loop, no relay.
    """
    own = tuple(hears)
    projection = on(PipelineReleased, pipelines.PipelineHandlers.on_pipeline_released)
    overridden = any(one.event is PipelineReleased for one in own)
    heard = own if overridden or not database else (projection, *own)
    routes = [(one, pipelines_owner if one is projection else handlers) for one in heard]
    edge = Edge(name, routes, prefix=settings.kafka.prefix)
    service = Service(
        name, settings, edge=edge, hears=heard, handlers=handlers, jobs=jobs, runs=runs, resources=resources,
        background=background, database=database, keeps=keeps,
    )  # fmt: skip
    install_problems(service.app, PASSING, UNSTORABLE)
    service.app.add_exception_handler(Refused, on_refused)
    service.app.include_router(_platform_api(service, ready))
    if database:
        service.app.include_router(_pipelines_api(edge))
        service.app.include_router(dead_letter_api(edge))
    if api is not None:
        service.app.include_router(api(edge))
    if asgi is not None:
        service.app.mount("/", asgi)
    return service


pipelines_owner = pipelines.PipelineHandlers()


async def on_refused(request: Request, error: Exception) -> Response:
    """A command's no as a problem."""
    refused = cast(Refused, error)
    return problem(
        refused.status, refused.code, refused.title, detail=refused.detail, hint=refused.hint,
        retry_after=refused.retry_after,
    )  # fmt: skip


def _platform_api(service: Service, ready: Callable[[], dict[str, str]] | None) -> APIRouter:
    """Health, metrics, version, AsyncAPI."""
    api = APIRouter(tags=["health"])

    @api.get("/livez")
    async def livez() -> JSONResponse:
        """200 while every loop turns."""
        stuck = service.liveness.stuck()
        return JSONResponse({"live": not stuck, "stuck": stuck}, 503 if stuck else 200)

    @api.get("/readyz")
    @api.get("/healthz")
    async def readyz() -> JSONResponse:
        """200 while it can do its work; otherwise what is missing."""
        missing = service.liveness.unready() | service.liveness.stuck() | (ready() if ready else {})
        return JSONResponse({"ready": not missing, "missing": missing}, 503 if missing else 200)

    @api.get("/metrics")
    async def metrics(request: Request) -> PlainTextResponse:
        """Prometheus metrics; with exemplars for who accepts OpenMetrics."""
        if service.database:
            await count_dead(service.edge)
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return PlainTextResponse(encode(REGISTRY), media_type=kind)

    _add_documents(api, service)
    return api


def _add_documents(api: APIRouter, service: Service) -> None:
    @api.get("/problems/{code}")
    async def problem_page(code: str) -> dict[str, str]:
        """What a problem's ``type`` leads to: its code in words, and what helps."""
        if code not in CATALOGUE:
            raise ProblemResponse(404, "CT4040", f"there is no code {code[:20]!r}")
        return {"code": code, "title": CATALOGUE[code].title, "help": CATALOGUE[code].help}

    @api.get("/version")
    async def version() -> dict[str, str]:
        """Which service this is."""
        return {
            "service": service.name,
            "version": "1",
            "instance": f"{service.name}-{service.settings.service.ordinal}",
        }

    @api.get("/asyncapi.json")
    async def asyncapi_document() -> dict[str, Any]:
        """What it hears and says, as AsyncAPI 3."""
        from ctloop.platform.asyncapi import asyncapi  # heavy: FastStream, for this document only

        facts: list[type[Event]] = [one.event for one in service.hears if one.event in BY_EVENT]
        says = said_types(service.hears) or tuple(fact.event for fact in FACTS if fact.said_by == service.name)
        return await asyncio.to_thread(asyncapi, service.name, facts, says)


def _pipelines_api(edge: Edge) -> APIRouter:
    api = APIRouter(prefix="/v1", tags=["pipelines"])

    @api.get("/pipelines/{model}")
    async def pipeline(model: str) -> dict[str, Any]:
        """The newest pipeline of a model that is known here; apply waits until every service shows it."""
        async with edge.reading() as connection:
            known = await pipelines.pipeline_row(connection, model)
        if known is None:
            raise ProblemResponse(404, "CT4042", f"no pipeline of model {model!r} is known here yet")
        return known

    return api


def main() -> None:
    """Entry of ``python -P -m ctloop.platform.service NAME``."""
    name = sys.argv[1]
    settings = Settings()
    start_logs(name)
    provider = start_traces(name, f"{name}-{settings.service.ordinal}")
    create_app = importlib.import_module(f"ctloop_{name}.app").create_app
    serve(create_app(settings))
    within(END_SECONDS, provider.shutdown)


def serve(service: Service) -> None:
    """Run it under uvicorn until SIGTERM; then it ends as it should, and so does its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again after its graceful shutdown
    settings = service.settings.service
    config = uvicorn.Config(
        service.app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=BoundedHttp,
        access_log=False,
        log_config=None,
        lifespan="on",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
