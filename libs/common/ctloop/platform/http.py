"""Errors over HTTP as RFC 9457 problems, the same for every service."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from opentelemetry import trace
from starlette.exceptions import HTTPException

PROBLEM_JSON = "application/problem+json"


class ProblemResponse(Exception):
    """An answer that says no: status, stable code, what is wrong and what to do."""

    def __init__(self, status: int, code: str, title: str, detail: str = "", hint: str = "") -> None:
        super().__init__(f"{code}: {title}")
        self.status, self.code, self.title, self.detail, self.hint = status, code, title, detail, hint
        self.errors: list[dict[str, str]] = []


def problem(
    status: int, code: str, title: str, *, detail: str = "", hint: str = "", errors: list[dict[str, str]] | None = None
) -> JSONResponse:
    """An ``application/problem+json`` answer."""
    span = trace.get_current_span().get_span_context()
    body: dict[str, Any] = {
        "type": f"/problems/{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "hint": hint,
        "errors": errors or [],
        "trace_id": f"{span.trace_id:032x}" if span.is_valid else None,
    }
    return JSONResponse(
        {name: value for name, value in body.items() if value not in ("", None, [])}, status, media_type=PROBLEM_JSON
    )


def install_problems(app: FastAPI, passing: Sequence[type[Exception]] = ()) -> None:
    """Answer every failure of an API with a problem, never with a stack or an HTML page.

    ``passing``: failures of what the service rests on; asking again in a moment is right.
    """

    async def on_passing(request: Request, error: Exception) -> JSONResponse:
        answer = problem(
            503, "CT5030", "a part of the stack does not answer now", detail=type(error).__name__, hint="try again"
        )
        answer.headers["Retry-After"] = "1"
        return answer

    for kind in passing:
        app.add_exception_handler(kind, on_passing)

    async def on_problem(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ProblemResponse)
        return problem(error.status, error.code, error.title, detail=error.detail, hint=error.hint, errors=error.errors)

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, f"CT{error.status_code}0", str(error.detail))

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
