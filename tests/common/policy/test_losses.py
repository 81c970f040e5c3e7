"""Losses and metrics against scikit-learn; intervals that know rows near in time err together."""

import numpy as np
import pytest
from sklearn import metrics as reference

from ctloop.policy.losses import compare, constant_losses, mean_interval, measure, row_losses


def binary(rows: int = 800) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    chance = np.round(generator.random(rows), 2).clip(0.01, 0.99)
    return np.column_stack([1 - chance, chance]), (generator.random(rows) < chance).astype(np.int64)


def values(names: tuple[str, ...], outputs: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, float]:
    return {one.name: one.value for one in measure(names, outputs, truth, classes)}


def test_binary_metrics_are_scikit_learns() -> None:
    """With ties in the scores."""
    outputs, truth = binary()
    found = values(("log_loss", "brier", "error", "accuracy", "auc", "kappa"), outputs, truth, 2)
    said = outputs.argmax(axis=1)
    assert found["log_loss"] == pytest.approx(reference.log_loss(truth, outputs))
    assert found["brier"] == pytest.approx(2 * reference.brier_score_loss(truth, outputs[:, 1]))
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, said))
    assert found["error"] == pytest.approx(1 - found["accuracy"])
    assert found["auc"] == pytest.approx(reference.roc_auc_score(truth, outputs[:, 1]))
    assert found["kappa"] == pytest.approx(reference.cohen_kappa_score(truth, said))


def test_multiclass_metrics_are_scikit_learns() -> None:
    """AUC is the mean of one class against the rest."""
    generator = np.random.default_rng(2)
    outputs, truth = generator.dirichlet(np.ones(4), 600), generator.integers(0, 4, 600)
    found = values(("log_loss", "auc", "kappa"), outputs, truth, 4)
    assert found["log_loss"] == pytest.approx(reference.log_loss(truth, outputs))
    assert found["auc"] == pytest.approx(reference.roc_auc_score(truth, outputs, multi_class="ovr", average="macro"))
    assert found["kappa"] == pytest.approx(reference.cohen_kappa_score(truth, outputs.argmax(axis=1)))


def test_regression_metrics_are_scikit_learns() -> None:
    """Skill under squared error is r2."""
    generator = np.random.default_rng(3)
    truth = generator.normal(size=500)
    outputs = truth + generator.normal(size=500)
    found = values(("rmse", "mse", "mae", "r2", "skill"), outputs, truth, 0)
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(truth, outputs))
    assert found["mse"] == pytest.approx(reference.mean_squared_error(truth, outputs))
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(truth, outputs))
    assert found["r2"] == pytest.approx(reference.r2_score(truth, outputs)) == found["skill"]


def test_what_rows_cannot_give_is_left_out() -> None:
    """One class only has no AUC; no rows have no metric at all."""
    outputs, _ = binary(50)
    assert "auc" not in values(("auc", "log_loss"), outputs, np.zeros(50, np.int64), 2)
    assert measure(("log_loss",), outputs[:0], np.zeros(0, np.int64), 2) == ()


def test_a_certain_mistake_is_bounded() -> None:
    """Probability 0 of what happened costs much, not infinitely much."""
    assert row_losses("log_loss", np.array([[1.0, 0.0]]), np.array([1]))[0] == pytest.approx(16.1, abs=0.1)


def test_the_constant_is_the_best_one() -> None:
    """Its loss is the entropy of the label."""
    truth = np.array([1] * 30 + [0] * 70)
    entropy = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7))
    assert constant_losses("log_loss", truth, 2).mean() == pytest.approx(entropy)


def test_intervals_hold_what_they_promise() -> None:
    """Of independent rows about 95 % of intervals hold the mean; of rows that err in storms the iid one would hold 40 %."""
    generator = np.random.default_rng(4)

    def covered(draw: np.ndarray) -> bool:
        _, low, high = mean_interval(draw)
        return low <= 0 <= high

    independent = [covered(generator.normal(size=1000)) for _ in range(400)]
    storms = [covered(np.repeat(generator.normal(size=100), 10) + generator.normal(size=1000)) for _ in range(400)]
    assert np.mean(independent) >= 0.94 and np.mean(storms) >= 0.9


def test_paired_differences_see_what_single_means_do_not() -> None:
    """A small steady gain is significant although the losses themselves vary widely."""
    outputs, truth = binary(2000)
    sharper = outputs.copy()
    sharper[np.arange(len(truth)), truth] += 0.01
    found = compare("log_loss", sharper, outputs, truth)
    assert found.high < 0 and compare("log_loss", outputs, outputs, truth).difference == 0
