"""One loop is one trace: from the decision to the first answer, over Kafka and the Ray task, linked to its causes."""

import importlib
import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from collector import Collected, Collector
from waiting import until

from ctloop.cli.declaring import wait_until_known
from ctloop.client import Client
from ctloop.compiler import compile_file
from ctloop.local.state import Stack
from ctloop.problems import Problem

pytestmark = [pytest.mark.e2e, pytest.mark.stack, pytest.mark.timeout(400)]
FIRST = datetime(2020, 1, 1, tzinfo=UTC)
PARCELS = """
from datetime import datetime
from sklearn.linear_model import LogisticRegression
import ctloop as ct


class Parcel(ct.Record, id="parcel", time="at"):
    parcel: str
    at: datetime
    weight: float = ct.field(ge=0)
    lost: bool = ct.label()


@ct.model(Parcel, trials=3)
def parcels(X, y, C=ct.log(0.1, 10.0)):
    return LogisticRegression(C=C).fit(X, y)
"""
MOST_SPANS = 200
REMOVED = (
    "messaging.operation",
    "messaging.client_id",
    "messaging.kafka.consumer.group",
    "messaging.kafka.destination.partition",
    "messaging.kafka.message.offset",
    "messaging.destination_publish.name",
    "messaging.destination_publish.anonymous",
)
GROUPS = ("messaging", "cicd", "cloudevents", "error")
STARTER = {
    "ingestion": ("ctloop_events_ingested_total",),
    "validation": ("ctloop_validation_duration_seconds", "ctloop_gate_results_total"),
    "training": ("ctloop_decisions_total", "ctloop_training_duration_seconds", "ctloop_training_gpu_seconds_total"),
    "registry": (),
    "monitoring": ("ctloop_drift_score",),
    "console": ("ctloop_loop_duration_seconds", "ctloop_sse_clients"),
    "serving": (
        "ctloop_model_info",
        "ctloop_promotion_duration_seconds",
        "ctloop_prediction_latency_seconds",
        "ctloop_prediction_requests_total",
    ),
}
OF_DELIVERY = (
    "ctloop_events_rejected_total",
    "ctloop_consumer_lag_records",
    "ctloop_event_age_seconds",
    "ctloop_dlq_records",
    "ctloop_redrive_total",
)
NOTHING_YET = ("ctloop_events_rejected_total", "ctloop_redrive_total", "ctloop_drift_score")
"""Declared, without a value: nothing of the kind has happened in this story."""


def parcels(rows: int) -> pa.Table:
    """Parcels that are lost the more, the heavier they are."""
    random = np.random.default_rng(1)
    weight = random.uniform(0, 10, rows)
    return pa.table(
        {
            "parcel": [f"p{number}" for number in range(rows)],
            "at": pa.array([FIRST + timedelta(minutes=number) for number in range(rows)], pa.timestamp("us", "UTC")),
            "weight": weight,
            "lost": random.random(rows) < 1 / (1 + np.exp(5 - weight)),
        }
    )


@pytest.fixture(scope="module")
def loop(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A loop that has closed, as the console tells it."""
    file = tmp_path_factory.mktemp("trace") / "parcels.py"
    file.write_text(PARCELS)
    with Client(urls=stack.urls) as client:
        for compiled in compile_file(file):
            wait_until_known(client, client.apply(compiled.manifest, compiled.bundle))
        client.send("parcel", parcels(600))

        def answer() -> bool:
            try:
                return client.predict("parcels", {"parcel": "ask-1", "weight": 9.0})["version"] == 1
            except Problem:
                return False

        until(answer, "an answer of parcels@1")
        return until(lambda: closed(client), "the loop of parcels")


def closed(client: Client) -> Any:
    """Its first loop, once it has closed."""
    return next((one for one in client.loops("parcels")["items"] if one["state"] == "closed"), None)


@pytest.fixture(scope="module")
def spans(loop: Any, collector: Collector) -> list[Collected]:
    """All spans of its trace: those of who hears last that it is deployed, of the Ray task, and whatever they hang on."""
    last = {
        ("ctloop-registry", "process model-deployed.v1"),
        ("ctloop-monitoring", "process model-deployed.v1"),
        ("ctloop-training-run", "RUN parcels"),
    }

    def complete() -> list[Collected]:
        found = collector.of_trace(loop["trace_id"])
        parents = {one.parent_id for one in found if one.parent_id}
        whole = last <= {(one.service, one.name) for one in found} and parents <= {one.span_id for one in found}
        return found if whole else []

    return collector.until(complete, "the whole trace")


def named(spans: list[Collected], service: str, name: str) -> Collected:
    """The one span of this name of a service."""
    [found] = [one for one in spans if (one.service, one.name) == (f"ctloop-{service}", name)]
    return found


def test_a_loop_is_one_trace_from_the_decision_to_the_first_answer(
    loop: Any, spans: list[Collected], collector: Collector
) -> None:
    """Whatever carries the loop's id carries its trace's; every span but the root has its parent in the trace."""
    of_loop = [one for one in collector.spans if one.attributes.get("ctloop.loopid") == loop["loop_id"]]
    assert {one.trace_id for one in of_loop} == {loop["trace_id"]} == {loop["loop_id"].replace("-", "")}
    assert len(spans) == len({one.span_id for one in spans}) < MOST_SPANS
    assert {one.attributes.get("ctloop.loopid") for one in spans} == {loop["loop_id"]}
    [root] = [one for one in spans if not one.parent_id]
    assert (root.service, root.name) == ("ctloop-training", "decide parcels")
    assert {one.parent_id for one in spans if one.parent_id} <= {one.span_id for one in spans}
    assert not [one.name for one in spans if one.failed]


@pytest.mark.parametrize(
    ("service", "name", "kind"),
    [
        ("training", "send retrain-decided.v1", "PRODUCER"),
        ("training", "job train-model", "INTERNAL"),
        ("training", "send training-started.v1", "PRODUCER"),
        ("training-run", "RUN parcels", "SERVER"),
        ("training-run", "read rows", "INTERNAL"),
        ("training-run", "load model file", "INTERNAL"),
        ("training-run", "trial 0", "INTERNAL"),
        ("training-run", "trial 2", "INTERNAL"),
        ("training-run", "final fit", "INTERNAL"),
        ("training-run", "check ONNX form", "INTERNAL"),
        ("training-run", "write model", "INTERNAL"),
        ("training", "send model-trained.v1", "PRODUCER"),
        ("validation", "process model-trained.v1", "CONSUMER"),
        ("validation", "job evaluate-model", "INTERNAL"),
        ("validation", "replay candidate", "INTERNAL"),
        ("validation", "judge", "INTERNAL"),
        ("validation", "send model-validated.v1", "PRODUCER"),
        ("registry", "process model-validated.v1", "CONSUMER"),
        ("registry", "send model-promoted.v1", "PRODUCER"),
        ("monitoring", "process model-promoted.v1", "CONSUMER"),
        ("serving", "deploy parcels", "INTERNAL"),
        ("serving", "first answer parcels", "INTERNAL"),
        ("serving", "send model-deployed.v1", "PRODUCER"),
        ("registry", "process model-deployed.v1", "CONSUMER"),
    ],
)
def test_each_step_has_its_span(spans: list[Collected], service: str, name: str, kind: str) -> None:
    """Once, of its kind."""
    assert named(spans, service, name).kind == kind


@pytest.mark.parametrize(
    "path",
    [
        ("decide parcels", "job train-model", "RUN parcels", "trial 1"),
        ("job train-model", "send model-trained.v1", "process model-trained.v1", "job evaluate-model", "judge"),
        ("job evaluate-model", "send model-validated.v1", "process model-validated.v1", "send model-promoted.v1"),
        ("process model-validated.v1", "deploy parcels"),
    ],
    ids=lambda path: path[-1],
)
def test_a_step_is_the_child_of_what_led_to_it(spans: list[Collected], path: tuple[str, ...]) -> None:
    """Across processes, Kafka, HTTP and Ray."""
    by_id = {one.span_id: one for one in spans}
    parents = {(one.name, by_id[one.parent_id].name) for one in spans if one.parent_id}
    missing = [(child, parent) for parent, child in itertools.pairwise(path) if (child, parent) not in parents]
    assert missing == []


def test_the_decision_links_to_what_caused_it(spans: list[Collected], collector: Collector) -> None:
    """From link to link, back to where the data came through the door."""
    [root] = [one for one in spans if not one.parent_id]
    seen: set[str] = set()
    todo = [trace for trace, _ in root.links]
    while todo:
        if (trace := todo.pop()) not in seen:
            seen.add(trace)
            todo += [linked for one in collector.of_trace(trace) for linked, _ in one.links]
    found = {one.name for trace in seen for one in collector.of_trace(trace)}
    assert root.trace_id not in seen
    assert {"process data-validated.v1", "job audit-batch", "job stage-batch", "send data-arrived.v1"} <= found
    assert "ctloop.loopid" not in {
        name for trace in seen for one in collector.of_trace(trace) for name in one.attributes
    }


def test_what_is_sent_goes_on_with_the_trace_of_who_sends(loop: Any, stack: Stack, collector: Collector) -> None:
    """A traceparent at the door comes through to the fact, and reads leave no trace."""
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    row = {"parcel": "traced", "at": FIRST.isoformat(), "weight": 1.0}
    url, headers = f"{stack.urls['ingestion']}/v1/datasets/parcel/records", {"traceparent": f"00-{trace}-{parent}-01"}
    headers["Content-Type"] = "application/x-ndjson"
    assert httpx.post(url, content=json.dumps(row), headers=headers).status_code == 202
    collector.until(lambda: len(collector.of_trace(trace)) == 2, "request and send")
    request, send = sorted(collector.of_trace(trace), key=lambda one: one.kind, reverse=True)
    assert (request.kind, request.parent_id) == ("SERVER", parent)
    assert (send.name, send.parent_id) == ("send data-arrived.v1", request.span_id)
    process = collector.until(
        lambda: [one for one in collector.spans if (trace, send.span_id) in one.links], "its link"
    )
    assert process[0].name == "process data-arrived.v1"
    assert not [one.name for one in collector.spans if one.attributes.get("http.request.method") == "GET"]


def test_attributes_are_those_of_the_conventions(spans: list[Collected], collector: Collector) -> None:
    """Every name of the groups we use is one of the installed conventions, and none of the removed ones."""
    modules = [
        importlib.import_module(f"opentelemetry.semconv._incubating.attributes.{one}_attributes") for one in GROUPS
    ]
    known = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    used = {name for one in collector.spans if one.service.startswith("ctloop-") for name in one.attributes}
    assert {name for name in used if name.startswith(tuple(f"{group}." for group in GROUPS))} <= known
    assert used & set(REMOVED) == set()
    processed = named(spans, "registry", "process model-validated.v1").attributes
    assert processed["messaging.system"] == "kafka"
    assert (processed["messaging.operation.name"], processed["messaging.operation.type"]) == ("process", "process")
    assert processed["messaging.consumer.group.name"] == "registry"
    assert processed["messaging.message.conversation_id"] == processed["ctloop.loopid"]
    run = named(spans, "training-run", "RUN parcels").attributes
    assert (run["cicd.pipeline.name"], run["cicd.pipeline.result"]) == ("parcels", "success")
    assert run["cicd.pipeline.run.id"] == processed["ctloop.run.id"]
    gates = {
        one["ctloop.gate.name"]: one["ctloop.gate.outcome"] for _, one in named(spans, "validation", "judge").events
    }
    assert set(gates.values()) == {"passed"}


def test_log_lines_name_loop_and_trace(loop: Any, spans: list[Collected], stack: Stack) -> None:
    """Every fact of the loop is a line with its loop, its trace and the span that said it."""
    ids = {one.span_id for one in spans}
    for service, topic in (
        ("training", "retrain-decided.v1"),
        ("training", "training-started.v1"),
        ("training", "model-trained.v1"),
        ("validation", "model-validated.v1"),
        ("registry", "model-promoted.v1"),
    ):
        lines = [one for one in log_of(stack, service) if one.get("loopid") == loop["loop_id"]]
        assert {one["trace_id"] for one in lines} == {loop["trace_id"]}
        assert [one for one in lines if one.get("topic") == topic and one["span_id"] in ids], topic
        assert {one["service.name"] for one in lines} == {f"ctloop-{service}"}
    swapped = [one for one in log_of(stack, "serving") if one.get("action") == "swapped"]
    assert (loop["loop_id"], loop["trace_id"]) in {(one.get("loopid"), one.get("trace_id")) for one in swapped}


def log_of(stack: Stack, service: str) -> list[dict[str, Any]]:
    """The JSON lines of a service's log."""
    text = (stack.data_dir / "logs" / f"{service}.log").read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"time"')]


@pytest.mark.parametrize("service", STARTER)
def test_metrics_have_the_starter_names(loop: Any, stack: Stack, service: str) -> None:
    """Each is declared, and has a value where the story made one; OpenMetrics carries the loop's trace."""
    url = f"{stack.urls[service]}/metrics"
    text = httpx.get(url).text
    names = (*STARTER[service], *(OF_DELIVERY if service != "serving" else ()))
    assert [name for name in names if f"# TYPE {name}" not in text] == []
    having = [name for name in names if name not in NOTHING_YET]
    assert [name for name in having if not any(line.startswith(name) for line in text.splitlines())] == []
    assert loop["loop_id"] not in text
    if service in ("console", "serving", "training"):
        shown = httpx.get(url, headers={"Accept": "application/openmetrics-text"}).text
        assert f'trace_id="{loop["trace_id"]}"' in shown


def test_a_loop_is_shown_with_its_trace(loop: Any, stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """`ctloop loop show` prints the id to search for."""
    from ctloop.cli import show

    with Client(urls=stack.urls) as client:
        show.data(client.loop("parcels", loop["number"]), as_json=False)
    assert loop["trace_id"] in capsys.readouterr().out
