"""MLflow is a view: whatever it answers, a run that has ended has ended."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid5

import pytest
from desk import MANIFEST, ended, version
from flower_lake import NAMESPACE, START

from ctloop.events.envelope import Envelope, Event
from ctloop.events.errors import CtloopError
from ctloop.events.values import Window
from ctloop.platform.jobs import Lease
from ctloop.platform.settings import S3Settings
from ctloop.platform.storage import Objects
from ctloop_training.jobs import TrainingJobs
from ctloop_training.mlflow_runs import MlflowRuns
from ctloop_training.run_jobs import RunTrained, TrainModel
from ctloop_training.run_spec import Failed, OnProgress, Progress, RunOrder, RunSpec, Trained, WarmOrder

SPEC = RunSpec(
    run_id=uuid5(NAMESPACE, "run"), decision_id=uuid5(NAMESPACE, "decision"), manifest=MANIFEST,
    pipeline_digest=MANIFEST.digest, dataset_version=version(1), data_time=START,
    window=Window(start=START, end=START), cause="test",
)  # fmt: skip


class AtOnce:
    """A runner whose runs end as soon as MLflow has answered."""

    def __init__(self, answered: asyncio.Event) -> None:
        self.answered = answered

    async def run(self, order: RunOrder, on_progress: OnProgress) -> Trained | Failed:
        await on_progress(Progress(stage="final"))
        await self.answered.wait()
        return ended(order.spec).trained

    async def warm(self, order: WarmOrder) -> None: ...


@asynccontextmanager
async def answering(raw: bytes) -> AsyncGenerator[tuple[str, asyncio.Event]]:
    """A server that gives one answer to everything, and when it has."""
    answered = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()
        writer.close()
        answered.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", answered


async def keep(note: Mapping[str, Any]) -> None: ...
async def speak(events: Sequence[Event]) -> None: ...


def http(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    "raw",
    [
        http("400 Bad Request", '{"error_code": "INVALID_PARAMETER_VALUE", "message": "deleted experiment"}'),
        http("200 OK", "<html>a proxy</html>"),
        http("200 OK", "{}"),
        http("503 Service Unavailable", ""),
    ],
    ids=["refuses", "no-json", "other-json", "down"],
)
async def test_a_run_ends_whatever_mlflow_says(raw: bytes) -> None:
    """Refused for good, down, or answered by something that is no MLflow: the model is there, its MLflow run is not."""
    s3 = S3Settings()
    cause = Envelope(id=SPEC.run_id, source="/test", type="t", subject="flowers", time=START)
    lease = Lease(job_id=SPEC.run_id, fence=1, attempt=1, cause=cause, notes={}, keep=keep, speak=speak)
    async with answering(raw) as (url, answered), MlflowRuns(url, Objects(s3)) as mlflow:
        end = await TrainingJobs(AtOnce(answered), mlflow, s3).train_model(TrainModel(spec=SPEC), lease)
        with pytest.raises(CtloopError):
            await mlflow.begin("flowers", SPEC.run_id)
    assert isinstance(end, RunTrained) and end.mlflow_run_id is None
