"""Requests that get a no: which status, which code, what was expected."""

from dataclasses import dataclass
from typing import Any

from ctloop.problems import CATALOGUE

MAX_BODY = 8 * 1024 * 1024
"""Largest request body, in bytes."""
MAX_ROWS = 16_384
"""Most rows one request may bring."""
MAX_TEXT = 65_536
"""Longest text value, in characters."""
MAX_ID = 500
"""Longest record id, in characters."""


@dataclass(frozen=True)
class Refusal(Exception):
    """A request serving does not answer, in the words of both protocols."""

    status: int
    code: str
    title: str
    detail: str = ""
    hint: str = ""
    pointer: str = ""
    """JSON pointer to the offending part of the body."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.title, self.detail) if part)

    def problem(self) -> dict[str, Any]:
        """The body of RFC 9457."""
        body: dict[str, Any] = {
            "type": f"/problems/{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "hint": self.hint or CATALOGUE[self.code].help,
        }
        if self.pointer:
            body["errors"] = [{"pointer": self.pointer, "detail": self.detail or self.title}]
        return {name: value for name, value in body.items() if value != ""}

    def oip(self) -> dict[str, str]:
        """The error object of the Open Inference Protocol, with the code beside it."""
        where = f" ({self.pointer})" if self.pointer else ""
        hint = f". {self.hint}" if self.hint else ""
        return {"error": f"{self}{where}{hint}", "code": self.code}


def not_json(detail: str) -> Refusal:
    """The body is no JSON, or JSON of another shape."""
    return Refusal(400, "CT5000", "the body cannot be read", detail)


def bad_value(pointer: str, detail: str, hint: str = "") -> Refusal:
    """A value of the wrong type, out of range, or missing where it must not be."""
    return Refusal(400, "CT5001", "a value does not fit the model's inputs", detail, hint, pointer)


def unknown_column(pointer: str, name: str, expected: str) -> Refusal:
    """A column the record class does not have."""
    return Refusal(400, "CT5002", f"unknown column {name[:100]!r}", f"expected: {expected}", "", pointer[:200])


def too_large(detail: str) -> Refusal:
    """More bytes or rows than one request may bring."""
    hint = f"send at most {MAX_ROWS} rows and {MAX_BODY} bytes in one request"
    return Refusal(413, "CT5013", "the request is too large", detail, hint)


def unknown_model(model: str, known: tuple[str, ...]) -> Refusal:
    """No champion of that name is served here."""
    names = ", ".join(known[:20]) or "none yet"
    return Refusal(404, "CT5004", f"no model {model[:100]!r} is served here", f"served: {names}")


def unknown_pipeline(model: str) -> Refusal:
    """No model file of that name was applied."""
    return Refusal(404, "CT4042", f"no pipeline of model {model[:100]!r} is known", hint="apply its file: ctloop apply")


def unknown_version(model: str, version: str, current: int) -> Refusal:
    """Only the champion answers."""
    detail = f"version {current} answers for {model}"
    return Refusal(404, "CT5005", f"version {version[:20]!r} of {model!r} does not answer", detail)


def no_such_path(path: str) -> Refusal:
    """Nothing answers under this path."""
    return Refusal(404, "CT5006", "no such path", path[:200])


def wrong_method(allowed: str) -> Refusal:
    """The path exists, for another method."""
    return Refusal(405, "CT5007", "method not allowed", f"allowed: {allowed}")


def not_computable(detail: str) -> Refusal:
    """The model itself refuses these values."""
    return Refusal(422, "CT5008", "the model cannot compute these rows", detail[:500])


def not_ready(model: str) -> Refusal:
    """A champion exists, its bytes are not verified and loaded yet."""
    return Refusal(503, "CT5009", f"model {model[:100]!r} is being loaded", hint="try again in a second")
