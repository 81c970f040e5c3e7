"""Logs as JSON, traces by OTLP where an endpoint is set, metrics for Prometheus."""

import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from opentelemetry import trace
from opentelemetry.propagate import set_global_textmap
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ctloop.platform.spans import LoopIds, current_traceparent, loop_at_hand, remote

EXTRA_FIELDS = ("action", "loopid", "event_id", "topic", "subject", "job", "reason", "model", "dataset")
"""What a log line may carry besides its sentence; never payloads, secrets or feature values."""
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
END_SECONDS = 2.0
"""A collector that does not answer costs the end of a process this much, and its last spans."""


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, service, sentence, stable action word, loop and trace id."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service.name": self.service,
            "message": record.getMessage(),
        }
        if loop := loop_at_hand():
            line["loopid"] = loop
        line |= {name: str(value) for name in EXTRA_FIELDS if (value := getattr(record, name, None)) is not None}
        if span := remote(getattr(record, "traceparent", None) or current_traceparent()):
            line |= {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)[-4000:]
        return json.dumps(line, ensure_ascii=False)


def start_logs(service: str) -> None:
    """Log lines of this process as JSON on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(f"ctloop-{service}"))
    logging.basicConfig(level=os.environ.get("CTLOOP_LOG_LEVEL", "INFO"), handlers=[handler], force=True)
    for noisy in ("aiokafka", "urllib3", "httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # one line per lost batch, none per retry


def collected() -> bool:
    """Whether somebody collects spans: the standard variables name an OTLP endpoint."""
    return any(os.environ.get(name) for name in ENDPOINTS)


def start_traces(service: str, instance: str) -> TracerProvider:
    """Have this process make spans, so that logs and facts carry a trace id, and export them where an endpoint is set.

    Without one there is no exporter, no thread and no connection.
    """
    resource = Resource.create({"service.name": f"ctloop-{service}", "service.instance.id": instance})
    provider = TracerProvider(resource=resource, id_generator=LoopIds())
    if collected():
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    set_global_textmap(TraceContextTextMapPropagator())  # baggage of strangers must not name a loop
    return provider


def within(seconds: float, do: Callable[[], object]) -> None:
    """Flush or shut down, for at most so long: the library's own limit is not kept when nobody answers."""
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(seconds)
