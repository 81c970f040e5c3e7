"""Spans, one trace per loop: the trace id of a loop is its loop id, so whoever knows the loop can go on with its trace.

Spans are made by the edge, the jobs and the free files that call something; handlers and domains know nothing of them.
"""

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from uuid import UUID

from opentelemetry import baggage, trace
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags

Attributes = Mapping[str, str | int | float | bool | Sequence[str] | None]
"""What a span says of itself; None says nothing."""
LOOP = "ctloop.loopid"
"""In the baggage of a process; from there on every span and log line of a loop. Between processes it is ``ce_loopid``."""
LINKS = 32
W3C = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")

tracer = trace.get_tracer("ctloop")
_beginning: ContextVar[UUID | None] = ContextVar("beginning", default=None)


class LoopIds(RandomIdGenerator):
    """Random ids, but for the root of a loop, whose ids follow from the loop's: said again, it is the same span."""

    def generate_trace_id(self) -> int:
        """128 bits."""
        loop_id = _beginning.get()
        return loop_id.int if loop_id else super().generate_trace_id()

    def generate_span_id(self) -> int:
        """64 bits."""
        loop_id = _beginning.get()
        return _root_of(loop_id) if loop_id else super().generate_span_id()


def _root_of(loop_id: UUID) -> int:
    return loop_id.int & 0xFFFF_FFFF_FFFF_FFFF


def loop_traceparent(loop_id: UUID) -> str:
    """W3C traceparent of the root span of a loop.

    >>> loop_traceparent(UUID("4bf92f35-77b3-5da6-a3ce-929d0e0e4736"))
    '00-4bf92f3577b35da6a3ce929d0e0e4736-a3ce929d0e0e4736-01'
    """
    return f"00-{loop_id.hex}-{_root_of(loop_id):016x}-01"


def traceparent_of(span: Span) -> str | None:
    """W3C traceparent of a span; written out: a propagator costs ten times as much."""
    own = span.get_span_context()
    return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}" if own.is_valid else None


def current_traceparent() -> str | None:
    """W3C traceparent of the current span, if there is one."""
    return traceparent_of(trace.get_current_span())


def remote(traceparent: str | None) -> SpanContext | None:
    """The span a W3C traceparent names; None when it names none."""
    found = W3C.fullmatch(traceparent or "")
    if found is None:
        return None
    own = SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=TraceFlags(int(found[3], 16)))
    return own if own.is_valid else None


def links_to(traceparents: Iterable[str | None]) -> list[Link]:
    """Links to where something came from; at most LINKS."""
    found = dict.fromkeys(one for one in traceparents if one)
    return [Link(context) for one in list(found)[:LINKS] if (context := remote(one)) is not None]


@contextmanager
def going_on(traceparent: str | None, loop_id: UUID | None = None) -> Generator[None]:
    """Inside, the current span is the one named, and what is made belongs to the loop; no span of its own."""
    token = attach(_context(traceparent, loop_id))
    try:
        yield
    finally:
        detach(token)


@contextmanager
def span(
    name: str,
    *,
    parent: str | None = None,
    loop_id: UUID | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    links: Sequence[Link] = (),
    attributes: Attributes | None = None,
) -> Generator[Span]:
    """A span that is the current one inside: child of ``parent``, a traceparent, else of the current one.

    A failure that falls through marks it by the name of its class: messages may hold what must not leave the process.
    """
    with (
        going_on(parent, loop_id),
        tracer.start_as_current_span(
            name, kind=kind, links=links, attributes=_said(attributes), record_exception=False,
            set_status_on_exception=False,
        ) as made,
    ):  # fmt: skip
        try:
            yield made
        except Exception as error:
            mark_failed(error)
            raise


def open_span(
    name: str,
    *,
    parent: str | None = None,
    loop_id: UUID | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes | None = None,
) -> Span:
    """A span that never is the current one: its owner ends it. For what does not begin and end in one block."""
    context = _context(parent, loop_id)
    return tracer.start_span(name, context, kind, _said(attributes, context))


def begin_loop(
    name: str, loop_id: UUID, *, start: datetime, causes: Sequence[str | None], attributes: Attributes | None = None
) -> None:
    """The root span of a loop, linked to the traces that caused it."""
    token = _beginning.set(loop_id)
    try:
        root = tracer.start_span(
            name,
            Context(),
            links=links_to(causes),
            attributes={**_said(attributes), LOOP: str(loop_id)},
            start_time=int(start.timestamp() * 1_000_000) * 1000,
        )
    finally:
        _beginning.reset(token)
    root.end()


def mark_failed(error: BaseException, span: Span | None = None) -> None:
    """Say that a span, the current one by default, ended badly."""
    made = span or trace.get_current_span()
    made.set_status(StatusCode.ERROR)
    made.set_attribute("error.type", type(error).__qualname__)


def loop_at_hand() -> str | None:
    """The loop that what is done now belongs to."""
    found = baggage.get_baggage(LOOP)
    return str(found) if found else None


def _context(traceparent: str | None, loop_id: UUID | None) -> Context:
    context = get_current()
    if (parent := remote(traceparent)) is not None:
        context = trace.set_span_in_context(NonRecordingSpan(parent), context)
    return baggage.set_baggage(LOOP, str(loop_id), context) if loop_id else context


def _said(
    attributes: Attributes | None, context: Context | None = None
) -> dict[str, str | int | float | bool | Sequence[str]]:
    said = {name: value for name, value in (attributes or {}).items() if value is not None}
    if loop := baggage.get_baggage(LOOP, context):
        said[LOOP] = str(loop)
    return said
