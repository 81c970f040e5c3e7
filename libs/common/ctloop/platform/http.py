"""Errors over HTTP as RFC 9457 problems, the same for every service."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from opentelemetry import trace
from starlette.exceptions import HTTPException

from ctloop.problems import CATALOGUE

PROBLEM_JSON = "application/problem+json"


class ProblemResponse(Exception):
    """An answer that says no: status, stable code, what is wrong and what to do; ``retry_after`` in seconds."""

    def __init__(
        self, status: int, code: str, title: str, detail: str = "", hint: str = "", *, retry_after: int | None = None
    ) -> None:
        super().__init__(f"{code}: {title}")
        self.status, self.code, self.title, self.detail, self.hint = status, code, title, detail, hint
        self.retry_after = retry_after
        self.errors: list[dict[str, str]] = []


def problem(
    status: int,
    code: str,
    title: str,
    *,
    detail: str = "",
    hint: str = "",
    errors: list[dict[str, str]] | None = None,
    retry_after: int | None = None,
) -> JSONResponse:
    """An ``application/problem+json`` answer; without a hint of its own it has the catalogue's."""
    span = trace.get_current_span().get_span_context()
    body: dict[str, Any] = {
        "type": f"/problems/{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "hint": hint or (CATALOGUE[code].help if code in CATALOGUE else ""),
        "errors": errors or [],
        "trace_id": f"{span.trace_id:032x}" if span.is_valid else None,
    }
    said = {name: value for name, value in body.items() if value not in ("", None, [])}
    headers = None if retry_after is None else {"Retry-After": str(retry_after)}
    return JSONResponse(said, status, headers, media_type=PROBLEM_JSON)


def install_problems(
    app: FastAPI, passing: Sequence[type[Exception]] = (), unstorable: Sequence[type[Exception]] = ()
) -> None:
    """Answer every failure of an API with a problem, never with a stack or an HTML page.

    ``passing``: failures of what the service rests on; asking again in a moment is right. ``unstorable``: what a value the
    database has no form for is said by.
    """
    handlers = {
        **dict.fromkeys(passing, _on_passing),
        **dict.fromkeys(unstorable, _on_unstorable),
        Exception: _on_bug,
        ProblemResponse: _on_problem,
        HTTPException: _on_http,
        RequestValidationError: _on_invalid,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _on_passing(request: Request, error: Exception) -> JSONResponse:
    title = "a part of the stack does not answer now"
    return problem(503, "CT5030", title, detail=type(error).__name__, hint="try again", retry_after=1)


async def _on_unstorable(request: Request, error: Exception) -> JSONResponse:
    return problem(400, "CT4002", "a value cannot be stored", detail=str(error)[:200])


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemResponse)
    return problem(
        error.status, error.code, error.title, detail=error.detail, hint=error.hint, errors=error.errors,
        retry_after=error.retry_after,
    )  # fmt: skip


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    answer = problem(error.status_code, f"CT{error.status_code}0", str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [
        {"pointer": "/" + "/".join(str(part) for part in one["loc"]), "detail": str(one["msg"])}
        for one in error.errors()
    ]
    return problem(422, "CT4220", "the request does not fit the API", detail=found[0]["detail"], errors=found)


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    return problem(500, "CT9009", "this should not have happened", detail="the log has it, under this trace")
