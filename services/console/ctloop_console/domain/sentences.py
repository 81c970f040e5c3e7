"""One sentence for people per fact."""

from collections.abc import Callable
from typing import Any

from ctloop.events.data import DataLanded, DataValidated
from ctloop.events.drift import DriftDetected, DriftResolved
from ctloop.events.envelope import Event
from ctloop.events.model import (
    DeploymentFailed,
    ModelDeployed,
    ModelPromoted,
    ModelRolledBack,
    ModelValidated,
    PerformanceMeasured,
)
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.training import ModelTrained, RetrainDecided, TrainingFailed, TrainingStarted
from ctloop.events.values import GateResult, Measured, Verdict

SHOWN = 3
"""Rules, features and metrics a sentence names before it says how many more there are."""


def number(value: float) -> str:
    """Three significant digits, counts whole.

    >>> number(0.48812), number(24210), number(0.00001)
    ('0.488', '24,210', '1e-05')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def metrics(measured: tuple[Measured, ...]) -> str:
    """log_loss 0.49, auc 0.71"""
    return ", ".join(f"{one.name} {number(one.value)}" for one in measured[:SHOWN])


def _some(parts: list[str]) -> str:
    more = len(parts) - SHOWN
    return ", ".join(parts[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def gate(result: GateResult) -> str:
    """A gate with both sides' values.

    >>> gate(GateResult(name="log_loss", passed=False, candidate=0.52, champion=0.4))
    'log_loss: 0.52, champion 0.4'
    """
    values = []
    if result.candidate is not None:
        values.append(number(result.candidate))
    if result.champion is not None:
        values.append(f"champion {number(result.champion)}")
    note = f" ({result.note})" if result.note else ""
    return f"{result.name}{': ' if values else ''}{', '.join(values)}{note}"


def _landed(said: DataLanded) -> str:
    return f"batch {said.number}: {said.rows:,} rows, {said.labels:,} labels"


def _data(said: DataValidated) -> str:
    bad = sum(rule.rows for rule in said.quarantined)
    parts = [f"{said.rows:,} good", f"{said.labelled:,} labels"]
    if bad:
        rules = sorted(said.quarantined, key=lambda rule: -rule.rows)
        parts.append(f"{bad:,} quarantined ({_some([rule.rule for rule in rules])})")
    if said.duplicates:
        parts.append(f"{said.duplicates:,} seen before")
    return f"v{said.version.n}  " + ", ".join(parts)


def _released(said: PipelineReleased) -> str:
    return f"pipeline {said.pipeline_version} of {said.model} ({said.digest[:12]}) is in force"


def _decided(said: RetrainDecided) -> str:
    return f"{said.action}: {said.reason}"


def _started(said: TrainingStarted) -> str:
    return f"run {str(said.run_id)[:8]}: {said.trials} trials on v{said.dataset_version.n}"


def _trained(said: ModelTrained) -> str:
    return f"run {str(said.run_id)[:8]}: {said.trials} trials, {metrics(said.metrics)}"


def _failed(said: TrainingFailed) -> str:
    return f"run {str(said.run_id)[:8]}: {said.reason}: {said.message}"


def _validated(said: ModelValidated) -> str:
    if said.verdict is Verdict.PASSED:
        theirs = {one.name: f" (champion {number(one.value)})" for one in said.champion_metrics}
        shown = [f"{one.name} {number(one.value)}{theirs.get(one.name, '')}" for one in said.metrics]
        return f"pass by {len(said.gates)} gates: {_some(shown)}"
    refused = [gate(one) for one in said.gates if not one.passed]
    return f"REFUSED run {str(said.run_id)[:8]}: {_some(refused)}"


def _promoted(said: ModelPromoted) -> str:
    by = "" if said.evidence else ", by a person"
    return f"{said.model}@{said.version} is champion (epoch {said.epoch}{by})"


def _rolled_back(said: ModelRolledBack) -> str:
    return f"back from {said.model}@{said.previous_version} to {said.model}@{said.version}: {said.reason}"


def _deployed(said: ModelDeployed) -> str:
    return f"first answer by {said.model}@{said.version} on {said.replica}"


def _not_deployed(said: DeploymentFailed) -> str:
    return f"{said.replica} cannot take {said.model}@{said.version}: {said.reason}"


def _measured(said: PerformanceMeasured) -> str:
    values = metrics(said.metrics) or "no label yet"
    return (
        f"{said.model}@{said.version} {said.window.start:%b %d}-{said.window.end:%b %d}: {values}"
        f" ({said.labels:,} labels, {said.coverage:.0%} of predictions)"
    )


def _drifted(said: DriftDetected) -> str:
    named = _some([f"{one.name} {number(one.score)}" for one in said.features])
    return f"{said.kind} drift since {said.since:%b %d}: {named or number(said.score)}"


def _resolved(said: DriftResolved) -> str:
    return f"{said.kind} drift is over: {said.why}"


SENTENCES: dict[type[Event], Callable[[Any], str]] = {
    DataLanded: _landed,
    DataValidated: _data,
    PipelineReleased: _released,
    RetrainDecided: _decided,
    TrainingStarted: _started,
    ModelTrained: _trained,
    TrainingFailed: _failed,
    ModelValidated: _validated,
    ModelPromoted: _promoted,
    ModelRolledBack: _rolled_back,
    ModelDeployed: _deployed,
    DeploymentFailed: _not_deployed,
    PerformanceMeasured: _measured,
    DriftDetected: _drifted,
    DriftResolved: _resolved,
}


def sentence(event: Event) -> str:
    """What a fact says, in one sentence."""
    return SENTENCES[type(event)](event)
