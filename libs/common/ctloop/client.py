"""The SDK: send records, ask for predictions, look at loops; the same names for sync and async."""

import io
import json
import os
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from ctloop.problems import Problem

ARROW_STREAM = "application/vnd.apache.arrow.stream"
CHUNK_ROWS = 50_000
"""Rows per request; the door splits further for the bus."""
TIMEOUT = httpx.Timeout(30.0, connect=3.0)
PATIENCE_SECONDS = 10.0
"""How long a request that may be repeated is tried again."""
NOT_NOW = (429, 503)
IN_FLIGHT = "CT4090"  # of a 409: an earlier try of this very request is being carried out
BY_STATUS = {401: "CT9006", 403: "CT9006", 404: "CT9002", 409: "CT9003", 412: "CT9003", 422: "CT9007", 503: "CT9004"}


@dataclass(frozen=True)
class Call:
    """One request to one service."""

    service: str
    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def repeats(self) -> bool:
        """Whether it may be tried again: reading, or writing under an idempotency key."""
        return self.method == "GET" or "Idempotency-Key" in self.headers or self.path.endswith("/predict")


def service_urls(data_dir: Path | None = None) -> dict[str, str]:
    """Where services are: ``CTLOOP_<SERVICE>__URL``, else the stack of the data directory."""
    from ctloop.local.control import data_dir_of
    from ctloop.local.environment import SERVICES
    from ctloop.local.state import read

    stack = read(data_dir_of(data_dir))
    known = dict(stack.urls) if stack else {}
    return known | {name: url for name in SERVICES if (url := os.environ.get(f"CTLOOP_{name.upper()}__URL"))}


def send_calls(dataset: str, data: Any, key: str | None) -> Iterator[Call]:
    """Requests that bring rows to ingestion's door, as Arrow streams."""
    import pyarrow as pa

    from ctloop.tables import as_table

    table = as_table(data)
    key = key or str(uuid.uuid4())
    for number, start in enumerate(range(0, table.num_rows, CHUNK_ROWS)):
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(start, CHUNK_ROWS))
        headers = {"content-type": ARROW_STREAM, "Idempotency-Key": f"{key}-{number}"}
        yield Call(
            "ingestion", "POST", f"/v1/datasets/{quoted(dataset)}/records", body=sink.getvalue(), headers=headers
        )


def dataset_of(target: Any) -> str:
    """A dataset's name, given itself or the record class."""
    return target if isinstance(target, str) else target.spec.dataset


def predict_call(model: str, rows: Any) -> Call:
    """A request for predictions of one row or many.

    Raises:
        Problem: CT2001, the rows are none, or have a value that JSON has no form for.
    """
    if not isinstance(rows, Mapping | list):
        from ctloop.tables import as_table

        rows = as_table(rows).to_pylist()
    try:
        written = json.dumps(rows, default=_iso).encode()
    except (TypeError, ValueError, AttributeError) as error:
        raise Problem(
            "CT2001", f"{type(error).__name__}: {error}"[:400], "Send text, numbers, booleans and times."
        ) from error
    headers = {"content-type": "application/json"}
    return Call("serving", "POST", f"/v1/models/{quoted(model)}/predict", body=written, headers=headers)


def quoted(name: str) -> str:
    """A name as one segment of a path, whatever is in it."""
    return quote(name, safe="")


def _iso(value: Any) -> str:
    return value.isoformat()


def problem_of(answer: httpx.Response) -> Problem:
    """A service's refusal as the problem the command shows."""
    try:
        said = answer.json()
    except ValueError:
        said = {}
    code = BY_STATUS.get(answer.status_code, "CT9004" if answer.status_code >= 500 else "CT9001")
    title = f"{said.get('code', answer.status_code)}: {said.get('title', answer.reason_phrase)}"
    cause = str(said.get("detail") or said.get("error") or said.get("title") or answer.text[:300])
    return Problem(code, cause, said.get("hint", ""), title=title)


class NotNow(Exception):
    """A service cannot answer at the moment and says so; asking again is right."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(f"{answer.status_code}")
        self.problem = problem_of(answer)


def _result(answer: httpx.Response) -> Any:
    if answer.status_code in NOT_NOW or (answer.status_code == 409 and IN_FLIGHT in answer.text):
        raise NotNow(answer)
    if answer.is_error:
        raise problem_of(answer)
    return answer.json()


def _failed(call: Call, url: str, error: Exception) -> Problem:
    if isinstance(error, NotNow):
        return error.problem
    return Problem("CT9004", f"{call.service} at {url or 'no known address'}: {type(error).__name__}", "ctloop status")


def _patience(call: Call, seconds: float) -> dict[str, Any]:
    """How long a request is tried again; one that may not be repeated is tried once."""
    attempts = None if call.repeats else 1
    return {"on": PASSING, "attempts": attempts, "timeout": seconds, "wait_max": 1.0, "wait_jitter": 0.2}


PASSING = (httpx.TransportError, NotNow)


class _Calls:
    """What both clients can do; ``_do`` decides whether it is awaited."""

    _do: Callable[[Call], Any]

    def models(self) -> Any:
        """Every applied model with its champion."""
        return self._do(Call("registry", "GET", "/v1/models"))

    def model(self, model: str) -> Any:
        """A model: pipeline, champion, newest versions."""
        return self._do(Call("registry", "GET", f"/v1/models/{quoted(model)}"))

    def champion(self, model: str, at: str | None = None) -> Any:
        """What is live, or was at a time."""
        return self._do(Call("registry", "GET", f"/v1/models/{quoted(model)}/champion", {"at": at} if at else {}))

    def promote(self, model: str, version: int, *, reason: str = "", force: bool = False) -> Any:
        """Make a version champion by hand."""
        return self._post(
            "registry", f"/v1/models/{quoted(model)}/promote", {"version": version, "reason": reason, "force": force}
        )

    def rollback(self, model: str, *, to: int | None = None, reason: str = "asked by a person") -> Any:
        """Go back to an earlier champion."""
        return self._post("registry", f"/v1/models/{quoted(model)}/rollback", {"to": to, "reason": reason})

    def retrain(self, model: str, *, reason: str = "asked by a person") -> Any:
        """Train now."""
        return self._post("training", f"/v1/models/{quoted(model)}/retrain", {"reason": reason})

    def runs(self, model: str, limit: int = 50) -> Any:
        """Runs of a model, newest first, with the progress of the open one."""
        return self._do(Call("training", "GET", f"/v1/models/{quoted(model)}/runs", {"limit": limit}))

    def decisions(self, model: str, limit: int = 50) -> Any:
        """Decisions about a model, newest first, acted on or not, each with its condition's values."""
        return self._do(Call("training", "GET", f"/v1/models/{quoted(model)}/decisions", {"limit": limit}))

    def approve(self, decision_id: str) -> Any:
        """Act on a decision that autonomy held back."""
        return self._post("training", f"/v1/decisions/{quoted(decision_id)}:approve", {})

    def loops(self, model: str | None = None, limit: int = 50) -> Any:
        """Loops, newest first."""
        return self._do(Call("console", "GET", "/v1/loops", {"limit": limit} | ({"model": model} if model else {})))

    def loop(self, model: str, number: int) -> Any:
        """A model's n-th loop."""
        return self._do(Call("console", "GET", f"/v1/models/{quoted(model)}/loops/{number}"))

    def why(self, model: str, version: int) -> Any:
        """Why a version is what it is."""
        return self._do(Call("console", "GET", f"/v1/why/{quoted(model)}/{version}"))

    def why_run(self, run_id: str) -> Any:
        """Why a run is what it is, promoted or not."""
        return self._do(Call("console", "GET", f"/v1/why/runs/{quoted(run_id)}/facts"))

    def version(self, model: str, version: int) -> Any:
        """Every judgement of a version, newest first."""
        return self._do(Call("registry", "GET", f"/v1/models/{quoted(model)}/versions/{version}"))

    def datasets(self) -> Any:
        """Every dataset, with what has landed in it."""
        return self._do(Call("ingestion", "GET", "/v1/datasets"))

    def audits(self, dataset: str, limit: int = 500) -> Any:
        """The audited batches of a dataset, newest first."""
        return self._do(Call("validation", "GET", f"/v1/datasets/{quoted(dataset)}/audits", {"limit": limit}))

    def why_not(self, model: str) -> Any:
        """Why a model is not trained now."""
        return self._do(Call("training", "GET", f"/v1/models/{quoted(model)}/why-not"))

    def timeline(self, *, model: str | None = None, limit: int = 200) -> Any:
        """The newest facts, oldest first."""
        return self._do(Call("console", "GET", "/v1/timeline", {"limit": limit} | ({"model": model} if model else {})))

    def facts(self) -> Any:
        """How many facts of each kind were heard."""
        return self._do(Call("console", "GET", "/v1/facts"))

    def latencies(self) -> Any:
        """Seconds from said to heard, and from each kind of fact to the one it caused."""
        return self._do(Call("console", "GET", "/v1/latencies"))

    def predict(self, model: str, rows: Any) -> Any:
        """Predictions for one row or many, each with version, digest, epoch and prediction id."""
        return self._do(predict_call(model, rows))

    def dead_letters(self, service: str) -> Any:
        """A service's dead letters."""
        return self._do(Call(service, "GET", "/v1/dlq"))

    def dead_letter(self, service: str, number: int) -> Any:
        """One dead letter with its bytes."""
        return self._do(Call(service, "GET", f"/v1/dlq/{number}"))

    def replay_dead_letter(self, service: str, number: int) -> Any:
        """Hand a dead letter to its handler again, once."""
        return self._do(Call(service, "POST", f"/v1/dlq/{number}:replay"))

    def pipeline(self, service: str, model: str) -> Any:
        """The pipeline of a model that a service knows."""
        return self._do(Call(service, "GET", f"/v1/pipelines/{quoted(model)}"))

    def _post(self, service: str, path: str, body: Mapping[str, Any]) -> Any:
        headers = {"content-type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        return self._do(Call(service, "POST", path, body=json.dumps(body).encode(), headers=headers))


class Client(_Calls):
    """ctloop over HTTP; requests that may be repeated are tried again for a while."""

    def __init__(
        self,
        *,
        data_dir: Path | None = None,
        urls: Mapping[str, str] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._urls = dict(urls) if urls is not None else service_urls(data_dir)
        self._patience = patience_seconds
        self._http = httpx.Client(timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def urls(self) -> Mapping[str, str]:
        """Where services are."""
        return self._urls

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def send(self, target: Any, data: Any, *, key: str | None = None) -> list[Any]:
        """Send records, whole or in part (labels come late under the same id); a receipt per request."""
        return [self._do(call) for call in send_calls(dataset_of(target), data, key)]

    def apply(self, manifest: Any, bundle: bytes) -> Any:
        """Put a compiled model file in force."""
        reference = self._do(Call("registry", "POST", "/v1/bundles", body=bundle))
        stored = manifest.model_copy(update={"bundle": manifest.bundle.model_copy(update=reference)})
        return self._do(Call("registry", "POST", "/v1/pipelines", body=stored.model_dump_json().encode()))

    def _do(self, call: Call) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        import stamina

        url = self._urls.get(call.service, "")
        try:
            for attempt in stamina.retry_context(**_patience(call, self._patience)):
                with attempt:
                    return _result(
                        self._http.request(
                            call.method,
                            url + call.path,
                            params=dict(call.params),
                            content=call.body,
                            headers=dict(call.headers),
                        )
                    )
        except (*PASSING, httpx.UnsupportedProtocol) as error:
            raise _failed(call, url, error) from error
        raise AssertionError("the last attempt returns or raises")


class AsyncClient(_Calls):
    """The same, awaited."""

    def __init__(
        self,
        *,
        data_dir: Path | None = None,
        urls: Mapping[str, str] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._urls = dict(urls) if urls is not None else service_urls(data_dir)
        self._patience = patience_seconds
        self._http = httpx.AsyncClient(timeout=TIMEOUT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def send(self, target: Any, data: Any, *, key: str | None = None) -> list[Any]:
        """Send records; a receipt per request."""
        return [await self._ask(call) for call in send_calls(dataset_of(target), data, key)]

    def _do(self, call: Call) -> Awaitable[Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._ask(call)

    async def _ask(self, call: Call) -> Any:
        import stamina

        url = self._urls.get(call.service, "")
        try:
            async for attempt in stamina.retry_context(**_patience(call, self._patience)):
                with attempt:
                    return _result(
                        await self._http.request(
                            call.method,
                            url + call.path,
                            params=dict(call.params),
                            content=call.body,
                            headers=dict(call.headers),
                        )
                    )
        except (*PASSING, httpx.UnsupportedProtocol) as error:
            raise _failed(call, url, error) from error
        raise AssertionError("the last attempt returns or raises")
