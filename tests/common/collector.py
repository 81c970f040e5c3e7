"""A small OTLP/HTTP receiver: what a collector is for the services, kept in memory."""

import gzip
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Collected:
    """One span as it came over the wire."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[tuple[str, str], ...]
    """Trace and span id."""
    attributes: dict[str, Any]
    events: tuple[tuple[str, dict[str, Any]], ...]
    failed: bool


@dataclass
class Collector:
    """Where spans are sent to, and what has come."""

    url: str
    spans: list[Collected] = field(default_factory=list)

    def of_trace(self, trace_id: str) -> list[Collected]:
        """The spans of one trace."""
        return [one for one in list(self.spans) if one.trace_id == trace_id]

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
        """Wait for spans."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := condition():
                return found
            time.sleep(0.05)
        raise AssertionError(f"{what} did not come within {seconds:.0f} s")


@contextmanager
def collecting() -> Iterator[Collector]:
    """A receiver on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                collector.spans.extend(read(ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield collector
    server.shutdown()
    server.server_close()


def read(request: Any) -> Iterator[Collected]:
    """The spans of one export."""
    for resource in request.resource_spans:
        service = attributes(resource.resource.attributes)["service.name"]
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            yield Collected(
                service=service,
                name=span.name,
                kind=type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                links=tuple((one.trace_id.hex(), one.span_id.hex()) for one in span.links),
                attributes=attributes(span.attributes),
                events=tuple((one.name, attributes(one.attributes)) for one in span.events),
                failed=span.status.code == 2,
            )


def attributes(pairs: Sequence[Any]) -> dict[str, Any]:
    """Names to plain values."""
    return {one.key: value_of(one.value) for one in pairs}


def value_of(value: Any) -> Any:
    """The plain value of a protobuf one."""
    kind = value.WhichOneof("value")
    return [value_of(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)
