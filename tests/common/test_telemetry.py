"""Traces of one process: exported where an endpoint is set, free where none is, and harmless where nobody answers."""

import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from collector import Collector

from ctloop.events.drift import DriftDetected, DriftResolved
from ctloop.events.envelope import Envelope
from ctloop.events.model import ModelPromoted, PerformanceMeasured
from ctloop.platform.delivery.work import Work, said
from ctloop.platform.jobs.queue import JobQueue

LOOP = UUID("4bf92f35-77b3-5da6-a3ce-929d0e0e4736")
EXAMPLES = Path(__file__).resolve().parents[2] / "contracts" / "examples"
WATCHING = (PerformanceMeasured, DriftDetected, DriftResolved)
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


TRIES = """
from datetime import UTC, datetime
from typing import ClassVar
from uuid import UUID, uuid4
from ctloop.events.envelope import Envelope
from ctloop.events.model import ModelDeployed
from ctloop.platform import spans, telemetry
from ctloop.platform.delivery import on, traced
from ctloop.platform.delivery.records import Arrival, Raw
from ctloop.platform.jobs import Job, Lease, Timer
from ctloop.platform.jobs.runner import _span

class Send(Job):
    kind: ClassVar[str] = "send"

class Tick(Timer):
    kind: ClassVar[str] = "tick"

provider = telemetry.start_traces("probe", "probe-0")
loop = UUID("4bf92f35-77b3-5da6-a3ce-929d0e0e4736")
cause = Envelope(
    id=uuid4(), source="/ctloop/probe", type="io.ctloop.x", subject="m", time=datetime.now(UTC), loop_id=loop,
    traceparent=spans.loop_traceparent(loop),
)
raw = Raw("model-deployed.v1", 0, 7, cause.key, cause.source, cause.id, [], b"")
heard = on(ModelDeployed, None)
for attempt in range(1, 9):
    with _span(Send(), Lease(uuid4(), 1, attempt, cause, {}, None, None)):
        assert spans.current_traceparent().split("-")[1] == loop.hex
    with traced.fact("probe", Arrival(raw, heard, cause, tries=attempt)):
        assert spans.loop_at_hand() == str(loop)
with _span(Tick(), Lease(uuid4(), 1, 99, cause.model_copy(update={"loop_id": None}), {}, None, None)):
    pass
said = [("ce_loopid", str(loop).encode()), ("ce_id", str(cause.id).encode()), ("traceparent", cause.traceparent.encode())]
send, headers = traced.sending("model-deployed.v1", cause.key, said)
assert spans.traceparent_of(send).encode() == dict(headers)["traceparent"] != cause.traceparent.encode()
send.end()
dead = [("ce_loopid", b"what came"), ("traceparent", b"\\xff"), ("x-dlq-reason-code", b"unexpected")]
assert traced.sending("probe.dead-letters", b"k", dead)[1] is dead
provider.shutdown()
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


def test_what_is_tried_again_and_again_does_not_make_a_trace_long(collector: Collector) -> None:
    """Five attempts of a job or a fact are spans; after them work goes on in the trace without one. A timer has its own."""
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    subprocess.run([sys.executable, "-P", "-c", TRIES], env=environment, timeout=60, check=True)
    found = collector.of_trace(LOOP.hex)
    names = [one.name for one in found if one.name.startswith(("job send", "process", "send"))]
    assert {name: names.count(name) for name in names} == {
        "job send": 5,
        "process model-deployed.v1": 5,
        "send model-deployed.v1": 1,
    }
    [tick] = [one for one in collector.spans if one.name == "job tick"]
    assert (tick.parent_id, [trace for trace, _ in tick.links]) == ("", [LOOP.hex])
    assert "ctloop.loopid" not in tick.attributes


def test_what_watching_says_belongs_to_no_loop() -> None:
    """A window measured while a model is promoted is about the world; a promotion is about the loop."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    cause = Envelope(id=LOOP, source="/ctloop/registry", type="io.ctloop.x", subject="m", time=now, loop_id=LOOP)
    work = Work(None, cause, now, JobQueue(None, cause, "jobs"))
    golden = {event: next((EXAMPLES / event.topic).glob("*.json")).read_bytes() for event in (*WATCHING, ModelPromoted)}
    loops = {event: said("x", work, event.model_validate_json(body)).envelope.loop_id for event, body in golden.items()}
    assert loops == {**dict.fromkeys(WATCHING), ModelPromoted: LOOP}
