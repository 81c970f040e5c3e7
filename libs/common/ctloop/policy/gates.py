"""Promotion gates: candidate and champion on the same newest rows, by losses, parity, latency and the user's own lines."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ctloop.events.manifest import Manifest
from ctloop.events.values import GateResult, Measured, Parity, Verdict
from ctloop.policy.conditions import NO_CHAMPION, Node, Value, evaluate
from ctloop.policy.losses import Floats, Truth, compare, mean_interval, measure, own_average_losses, row_losses
from ctloop.policy.windows import metric_names

MARGIN = 0.01
"""Share of the champion's loss by which a candidate may be worse at most, at the far end of the difference's interval."""
LEAST_ROWS = 20
FLIPS = 0.001
DIFFERENCE = 1e-3
TIE = 1e-6
"""float32 noise of a difference that is none."""


@dataclass(frozen=True)
class GateRule:
    """What a manifest asks of a candidate."""

    metric: str
    report: tuple[str, ...]
    classification: bool
    gates: tuple[tuple[str, Node], ...]

    @classmethod
    def of(cls, manifest: Manifest) -> "GateRule":
        """The rule of a manifest."""
        gates = tuple((one.text, Node.from_json(one.tree)) for one in manifest.gates)
        return cls(manifest.metric, manifest.report, manifest.task == "classification", gates)


@dataclass(frozen=True)
class Challenge:
    """Both sides on the same gate rows. Outputs: [N, C] probabilities, or [N, 1] values."""

    candidate: Floats
    champion: Floats | None
    truth: Truth
    parity: Parity
    p99_ms: float | None = None
    champion_p99_ms: float | None = None


@dataclass(frozen=True)
class GateReport:
    """The verdict with everything it rests on."""

    verdict: Verdict
    gates: tuple[GateResult, ...]
    metrics: tuple[Measured, ...]
    champion_metrics: tuple[Measured, ...]


def judge(challenge: Challenge, rule: GateRule) -> GateReport:
    """Every gate, passed or not; one that fails refuses the candidate."""
    classes = challenge.candidate.shape[1] if rule.classification else 0
    names = tuple(dict.fromkeys((*metric_names(rule.metric, rule.report), *_asked(rule))))
    metrics = measure(names, challenge.candidate, challenge.truth, classes)
    theirs = measure(names, challenge.champion, challenge.truth, classes) if challenge.champion is not None else ()
    gates = [
        _enough(challenge), _parity(challenge.parity), _beats_constant(challenge, rule),
        _not_worse(challenge, rule), *_own(challenge, rule, metrics, theirs),
    ]  # fmt: skip
    passed = all(gate.passed for gate in gates)
    return GateReport(Verdict.PASSED if passed else Verdict.FAILED, tuple(gates), metrics, theirs)


def _asked(rule: GateRule) -> tuple[str, ...]:
    from ctloop.policy.conditions import names
    from ctloop.policy.losses import METRICS, ROW_LOSSES

    wanted = {name.rpartition(".")[2] for _, node in rule.gates for name in names(node)}
    fits = CLASS_ONLY if not rule.classification else VALUE_ONLY
    return tuple(sorted(name for name in wanted if (name in METRICS or name in ROW_LOSSES) and name not in fits))


CLASS_ONLY = frozenset({"log_loss", "brier", "error", "accuracy", "auc", "kappa"})
VALUE_ONLY = frozenset({"rmse", "mse", "mae", "r2"})


def _enough(challenge: Challenge) -> GateResult:
    rows = len(challenge.truth)
    return GateResult(
        name=f"gate rows >= {LEAST_ROWS}", passed=rows >= LEAST_ROWS, candidate=float(rows),
        note="" if rows >= LEAST_ROWS else "too few labelled rows the champion has not learned from",
    )  # fmt: skip


def _parity(parity: Parity) -> GateResult:
    passed = parity.flipped <= max(1.0, FLIPS * parity.rows) or parity.largest_difference <= DIFFERENCE
    note = f"{parity.flipped} of {parity.rows} decisions flipped"
    return GateResult(name="ONNX = estimator", passed=passed, candidate=parity.largest_difference, note=note)


def _beats_constant(challenge: Challenge, rule: GateRule) -> GateResult:
    """It says more than its own average, and what it says does no harm: it is not significantly worse than that average.
    Asked of a first model only; with nothing in force, evidence of harm refuses, want of evidence does not."""
    name = f"{rule.metric} beats a constant"
    if challenge.champion is not None:
        return GateResult(name=name, passed=True, note="there is a champion to beat instead")
    if not len(challenge.truth):
        return GateResult(name=name, passed=False, note="no gate rows")
    own = row_losses(rule.metric, challenge.candidate, challenge.truth)
    average = own_average_losses(rule.metric, challenge.candidate, challenge.truth)
    difference, low, high = mean_interval(own - average)
    learned = float(np.abs(own - average).max()) > TIE
    note = f"constant {average.mean():.4g}, difference {difference:+.4g}, 95 % [{low:+.4g}, {high:+.4g}]"
    return GateResult(name=name, passed=learned and low <= TIE, candidate=_number(float(own.mean())), note=note)


def _not_worse(challenge: Challenge, rule: GateRule) -> GateResult:
    """Better on the mean, and worse than the margin is excluded with 95 % confidence, by the paired difference of losses
    (non-inferiority, one-sided; Wellek, Testing Statistical Hypotheses of Equivalence and Noninferiority, 2010)."""
    name = f"{rule.metric} not worse"
    if challenge.champion is None:
        return GateResult(name=name, passed=True, note=NO_CHAMPION)
    if not len(challenge.truth):
        return GateResult(name=name, passed=False, note="no rows to compare on")
    theirs = float(row_losses(rule.metric, challenge.champion, challenge.truth).mean())
    mine = float(row_losses(rule.metric, challenge.candidate, challenge.truth).mean())
    if not np.isfinite((mine, theirs)).all():
        passed = bool(np.isfinite(mine))
        note = "losses are no numbers: the candidate's" if not passed else "losses are no numbers: the champion's"
        return GateResult(name=name, passed=passed, candidate=_number(mine), champion=_number(theirs), note=note)
    better = compare(rule.metric, challenge.candidate, challenge.champion, challenge.truth)
    own = theirs + better.difference
    passed = better.difference <= 0 and better.high <= MARGIN * abs(theirs)
    note = f"difference {better.difference:+.4g}, with 95 % confidence below {better.high:+.4g}"
    return GateResult(name=name, passed=passed, candidate=own, champion=theirs, note=note)


def _own(
    challenge: Challenge, rule: GateRule, metrics: tuple[Measured, ...], theirs: tuple[Measured, ...]
) -> list[GateResult]:
    values: dict[str, Value] = {one.name: one.value for one in metrics}
    values |= {f"champion.{one.name}": one.value for one in theirs}
    values |= {"p99_ms": challenge.p99_ms, "champion.p99_ms": challenge.champion_p99_ms}
    values |= {"rows": float(len(challenge.truth))}
    return [_line(text, node, values, first=challenge.champion is None) for text, node in rule.gates]


def _line(text: str, node: Node, values: Mapping[str, Value], *, first: bool) -> GateResult:
    tree = evaluate(node, values)
    no_champion = first and tree.value is None and tree.note == NO_CHAMPION
    left = tree.args[0].value if tree.args else None
    right = tree.args[1].value if len(tree.args) > 1 else None
    return GateResult(
        name=text,
        passed=tree.value is True or no_champion,
        candidate=_number(left),
        champion=_number(right),
        note=NO_CHAMPION if no_champion else tree.note,
        tree=tree,
    )


def _number(value: Value) -> float | None:
    """What a fact can carry."""
    return float(value) if isinstance(value, float) and np.isfinite(value) else None
