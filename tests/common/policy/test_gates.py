"""The promotion gates: evidence, not luck, moves the champion."""

import numpy as np
import pytest

from ctloop.events.values import GateResult, Parity, Verdict
from ctloop.policy.conditions import compile_condition
from ctloop.policy.gates import Challenge, GateReport, GateRule, judge

SAME = Parity(rows=1000, largest_difference=1e-7, flipped=0)
RNG = np.random.default_rng(7)
CHANCE = RNG.random(2000).clip(0.05, 0.95)
TRUTH = (RNG.random(2000) < CHANCE).astype(np.int64)
FLAT = np.full(2000, TRUTH.mean())


def both(chance: np.ndarray) -> np.ndarray:
    return np.column_stack([1 - chance, chance])


def rule(*gates: str) -> GateRule:
    known = {"auc", "log_loss", "p99_ms", "rows"}
    return GateRule("log_loss", ("auc",), True, tuple((one, compile_condition(one, known)) for one in gates))


def report(
    candidate: np.ndarray, champion: np.ndarray | None, *gates: str, parity: Parity = SAME, p99_ms: float | None = None
) -> GateReport:
    theirs = None if champion is None else both(champion)
    return judge(Challenge(both(candidate), theirs, TRUTH[: len(candidate)], parity, p99_ms), rule(*gates))


def refused(found: GateReport) -> list[str]:
    assert (found.verdict is Verdict.FAILED) == any(not one.passed for one in found.gates)
    return [one.name for one in found.gates if not one.passed]


def gate(found: GateReport, name: str) -> GateResult:
    return next(one for one in found.gates if one.name == name)


def test_a_better_candidate_passes_with_both_values() -> None:
    """Every gate has both sides' numbers, the report metrics of both."""
    found = report(CHANCE, FLAT)
    assert refused(found) == []
    not_worse = gate(found, "log_loss not worse")
    assert not_worse.candidate is not None and not_worse.champion is not None
    assert not_worse.candidate < not_worse.champion
    assert (
        {one.name for one in found.metrics} == {"log_loss", "auc", "skill"} == {o.name for o in found.champion_metrics}
    )


def test_a_worse_candidate_is_refused() -> None:
    """On the metric that decides."""
    assert refused(report(FLAT, CHANCE)) == ["log_loss not worse"]


def test_better_by_luck_is_not_enough() -> None:
    """Two noisy versions of one model differ by chance: the one that looks better is not promoted for it."""
    noise = [(CHANCE + RNG.normal(0, 0.15, 2000)).clip(0.05, 0.95) for _ in range(2)]
    verdicts = [refused(report(one, other)) for one, other in (noise, noise[::-1])]
    assert all("log_loss not worse" in one for one in verdicts)


def test_a_first_model_must_know_something() -> None:
    """A constant is refused, harm is refused, a model with skill passes and says there is no champion."""
    assert refused(report(FLAT, None)) == ["log_loss beats a constant"]
    assert refused(report(1 - CHANCE, None)) == ["log_loss beats a constant"]
    found = report(CHANCE, None, "auc >= champion.auc - 0.01")
    assert refused(found) == [] and gate(found, "auc >= champion.auc - 0.01").note == "no champion yet"


@pytest.mark.parametrize("parity", [Parity(rows=1000, largest_difference=0.58, flipped=122)])
def test_an_inference_form_that_answers_differently_is_refused(parity: Parity) -> None:
    """However good the estimator was."""
    assert refused(report(CHANCE, FLAT, parity=parity)) == ["ONNX = estimator"]


def test_the_users_lines_are_gates() -> None:
    """With their tree; what was not measured does not pass."""
    found = report(CHANCE, FLAT, "p99_ms <= 20", "auc > 0.99", p99_ms=4.0)
    assert refused(found) == ["auc > 0.99"]
    tree = gate(found, "auc > 0.99").tree
    assert tree is not None and tree.value is False and tree.args[0].text == "auc"
    assert refused(report(CHANCE, FLAT, "p99_ms <= 20")) == ["p99_ms <= 20"]


@pytest.mark.parametrize("rows", [0, 1, 19])
def test_too_few_gate_rows_are_no_evidence(rows: int) -> None:
    """Also none at all: a refusal, not an exception."""
    assert f"gate rows >= {20}" in refused(report(CHANCE[:rows], FLAT[:rows]))


@pytest.mark.parametrize("side", ["candidate", "champion"])
def test_values_whose_losses_are_no_numbers_are_refused(side: str) -> None:
    """A regression that answers 1e200: its squared error is infinite, which no fact can carry; not a bug but a no."""
    truth = RNG.random(200)
    fine, wild = truth.reshape(-1, 1), np.full((200, 1), 1e200)
    regression = GateRule("rmse", ("r2",), False, ())
    candidate, champion = (wild, fine) if side == "candidate" else (wild, wild)
    with np.errstate(over="ignore", invalid="ignore"):
        first = judge(Challenge(candidate, None, truth, SAME), regression)
        second = judge(Challenge(candidate, champion, truth, SAME), regression)
    assert first.verdict is Verdict.FAILED and second.verdict is Verdict.FAILED
    assert gate(second, "rmse not worse").candidate is None


def test_a_champion_that_answers_nonsense_is_beaten() -> None:
    """Its loss is no number; a candidate's that is one is better."""
    truth = RNG.random(200)
    candidate = truth.reshape(-1, 1) + RNG.normal(0, 0.01, (200, 1))
    with np.errstate(over="ignore", invalid="ignore"):
        found = judge(Challenge(candidate, np.full((200, 1), 1e200), truth, SAME), GateRule("rmse", (), False, ()))
    assert found.verdict is Verdict.PASSED, found.gates
