"""The spans of a run in the Ray task's own process, exported from there: the run, and each step of it.

The user's process makes none: it knows no address of ours. A step around each call of it says how long it took.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Self

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind

from ctloop.events.training import FailureReason
from ctloop.platform import spans
from ctloop.platform.telemetry import collected, start_traces, within
from ctloop_training.run_spec import RunOrder

TRIALS = 64
"""Trials that get a span: the trace of a loop stays below 200 of them, whatever the search tries."""
FLUSH_SECONDS = 1.0
"""At the end of a run: its worker may be gone before the next export. Nobody waits for it, the result is said."""


@cache
def provider() -> TracerProvider | None:
    """This worker's, for as long as it lives; None where nobody collects spans."""
    return start_traces("training-run", "ray") if collected() else None


class RunTrace:
    """One attempt of a run: a span of the pipeline it is a run of, ``RUN <model>``, and its steps."""

    def __init__(self, order: RunOrder) -> None:
        self._provider, self._loop_id = provider(), order.loop_id
        spec = order.spec
        self._span = spans.open_span(
            f"RUN {spec.manifest.model}",
            parent=order.traceparent,
            loop_id=order.loop_id,
            kind=SpanKind.SERVER,
            attributes={
                "cicd.pipeline.name": spec.manifest.model,
                "cicd.pipeline.action.name": "RUN",
                "cicd.pipeline.run.id": str(spec.run_id),
                "ctloop.model.name": spec.manifest.model,
                "ctloop.run.id": str(spec.run_id),
                "ctloop.decision.id": str(spec.decision_id),
                "ctloop.dataset.version": f"{spec.manifest.record.dataset}@{spec.dataset_version.n}",
            },
        )
        self._parent = spans.traceparent_of(self._span)
        self._result = "cancellation"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception):
            self.failed(error)
        self._span.set_attribute("cicd.pipeline.result", self._result)
        self._span.end()
        if self._provider is not None:
            within(FLUSH_SECONDS, self._provider.force_flush)

    def step(self, name: str) -> AbstractContextManager[Span]:
        """The span of one step."""
        return spans.span(name, parent=self._parent, loop_id=self._loop_id)

    def trial(self, number: int) -> AbstractContextManager[object]:
        """The span of one trial of the search."""
        return self.step(f"trial {number}") if number < TRIALS else nullcontext()

    def succeeded(self) -> None:
        """It ended with a model."""
        self._result = "success"

    def failed(self, error: Exception, reason: FailureReason | None = None) -> None:
        """It ended without one: by the user's part, or None, by what it runs on."""
        self._result = "error" if reason is None else "timeout" if reason == "time-limit" else "failure"
        spans.mark_failed(error, self._span)
        if reason is not None:
            self._span.set_attribute("error.type", reason)
