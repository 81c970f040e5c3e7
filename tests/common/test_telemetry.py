"""Traces of one process: exported where an endpoint is set, free where none is, and harmless where nobody answers."""

import json
import os
import socket
import subprocess
import sys
import time
from uuid import UUID

import pytest
from collector import Collector

LOOP = UUID("4bf92f35-77b3-5da6-a3ce-929d0e0e4736")
PROCESS = """
import logging, sys, threading, time
from datetime import UTC, datetime
from uuid import UUID
from ctloop.platform import spans, telemetry

telemetry.start_logs("probe")
provider = telemetry.start_traces("probe", "probe-0")
loop = UUID("4bf92f35-77b3-5da6-a3ce-929d0e0e4736")
with spans.span("cause") as cause:
    spans.begin_loop("decide probe", loop, start=datetime.now(UTC), causes=[spans.current_traceparent(), "nonsense"])
with spans.span("job", parent=spans.loop_traceparent(loop), loop_id=loop):
    logging.getLogger("probe").info("at work")
    try:
        with spans.span("step"):
            raise ValueError("a feature value")
    except ValueError:
        pass
logging.getLogger("probe").info("idle")
threads = [one.name for one in threading.enumerate()]
began = time.monotonic()
telemetry.within(telemetry.END_SECONDS, provider.shutdown)
print(threads, "opentelemetry.exporter" in sys.modules, time.monotonic() - began, sep="|")
"""


def run(endpoint: str | None) -> tuple[list[str], bool, float, list[dict[str, str]]]:
    """Threads while it works, whether an exporter was imported, seconds of its end, its log lines."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} if endpoint else {}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROCESS], env=kept | given, capture_output=True, text=True, timeout=60, check=True
    )
    threads, exporter, seconds = done.stdout.strip().split("|")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    return json.loads(threads.replace("'", '"')), exporter == "True", float(seconds), lines


def test_a_loop_is_one_trace_named_after_it(collector: Collector) -> None:
    """Root with the loop's id and links to its causes; everything below carries the loop; failures say no values."""
    run(collector.url)
    spans = {one.name: one for one in collector.spans}
    root, job, step, cause = (spans[name] for name in ("decide probe", "job", "step", "cause"))
    assert root.trace_id == job.trace_id == step.trace_id == LOOP.hex != cause.trace_id
    assert (root.parent_id, job.parent_id, step.parent_id) == ("", root.span_id, job.span_id)
    assert root.links == ((cause.trace_id, cause.span_id),)
    assert {one.attributes["ctloop.loopid"] for one in (root, job, step)} == {str(LOOP)}
    assert "ctloop.loopid" not in cause.attributes
    assert (step.failed, step.attributes["error.type"], step.events) == (True, "ValueError", ())
    assert root.service == "ctloop-probe"


def test_without_an_endpoint_there_is_no_exporter_and_no_thread() -> None:
    """Nothing is imported, started or connected; the log still names trace and loop."""
    threads, exporter, seconds, lines = run(None)
    assert threads == ["MainThread"]
    assert not exporter
    assert seconds < 0.5
    working, idle = (next(line for line in lines if line["message"] == text) for text in ("at work", "idle"))
    assert (working["loopid"], working["trace_id"]) == (str(LOOP), LOOP.hex)
    assert working["service.name"] == "ctloop-probe"
    assert len(working["span_id"]) == 16
    assert not {"loopid", "trace_id"} & idle.keys()


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
def test_a_collector_that_is_down_holds_nothing_up(silent: bool) -> None:
    """Spans go nowhere; the process ends within its time, whether connections are refused or never answered."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if silent:
            taken.listen()
        began = time.monotonic()
        _, exporter, seconds, lines = run(f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert exporter
        assert seconds < 3  # of its END_SECONDS
        assert time.monotonic() - began < 20
    assert any(line.get("message") == "at work" for line in lines)
