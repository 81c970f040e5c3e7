"""Errors over HTTP as RFC 9457 problems, the same for every service."""

from collections.abc import Callable, Sequence
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

    def __init__(  # noqa: PLR0913 the parts of a problem
        self, status: int, code: str, title: str, detail: str = "", hint: str = "", *, retry_after: int | None = None
    ) -> None:
        super().__init__(f"{code}: {title}")
        self.status, self.code, self.title, self.detail, self.hint = status, code, title, detail, hint
        self.retry_after = retry_after
        self.errors: list[dict[str, str]] = []


def problem(
    status: int, code: str, title: str, *, detail: str = "", hint: str = "", errors: list[dict[str, str]] | None = None
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
    return JSONResponse(
        {name: value for name, value in body.items() if value not in ("", None, [])}, status, media_type=PROBLEM_JSON
    )


def install_problems(
    app: FastAPI, passing: Sequence[type[Exception]] = (), unstorable: Callable[[Exception], bool] = lambda _: False
) -> None:
    """Answer every failure of an API with a problem, never with a stack or an HTML page.

    ``passing``: failures of what the service rests on; asking again in a moment is right. ``unstorable``: tells a value
    the database has no form for from these.
    """

    async def on_passing(request: Request, error: Exception) -> JSONResponse:
        if unstorable(error):
            return problem(400, "CT4002", "a value cannot be stored", detail=str(error)[:200])
        answer = problem(
            503, "CT5030", "a part of the stack does not answer now", detail=type(error).__name__, hint="try again"
        )
        answer.headers["Retry-After"] = "1"
        return answer

    for kind in passing:
        app.add_exception_handler(kind, on_passing)

    async def on_problem(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ProblemResponse)
        answer = problem(
            error.status, error.code, error.title, detail=error.detail, hint=error.hint, errors=error.errors
        )
        if error.retry_after is not None:
            answer.headers["Retry-After"] = str(error.retry_after)
        return answer

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        answer = problem(error.status_code, f"CT{error.status_code}0", str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = [
            {"pointer": "/" + "/".join(str(part) for part in one["loc"]), "detail": str(one["msg"])}
            for one in error.errors()
        ]
        return problem(422, "CT4220", "the request does not fit the API", detail=found[0]["detail"], errors=found)

    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        return problem(500, "CT5000", "this should not have happened", detail="the log has it, under this trace")

    app.add_exception_handler(Exception, on_bug)
    app.add_exception_handler(ProblemResponse, on_problem)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)
