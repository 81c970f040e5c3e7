"""Logs as JSON, traces by OTLP where an endpoint is set, metrics for Prometheus."""

import json
import logging
import os
import sys
from datetime import UTC, datetime

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

EXTRA_FIELDS = ("action", "loopid", "event_id", "topic", "subject", "job", "reason", "model", "dataset")
"""What a log line may carry besides its sentence; never payloads, secrets or feature values."""


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, service, sentence, stable action word, loop and trace id."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self.service,
            "message": record.getMessage(),
        }
        line |= {name: str(value) for name in EXTRA_FIELDS if (value := getattr(record, name, None)) is not None}
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line |= {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)[-4000:]
        return json.dumps(line, ensure_ascii=False)


def start_telemetry(service: str, ordinal: int) -> TracerProvider:
    """Set up logs and traces of this process; the provider's shutdown flushes what is left.

    Spans are made (so that logs and events carry a trace id) whether or not anybody collects them.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(service))
    logging.basicConfig(level=os.environ.get("CTLOOP_LOG_LEVEL", "INFO"), handlers=[handler], force=True)
    for noisy in ("aiokafka", "urllib3", "httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    provider = TracerProvider(
        resource=Resource.create({"service.name": f"ctloop-{service}", "service.instance.id": f"{service}-{ordinal}"})
    )
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider
