"""One library of per-row losses and named metrics, for training, gates, monitoring and replay alike.

Outputs of classification are probabilities [N, C] and truth is the class index; of regression values [N] and [N].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctloop.events.values import Measured

Floats = NDArray[np.float64]
Truth = NDArray[np.int64] | NDArray[np.float64]
CLIP = 1e-7
"""Probabilities are kept this far from 0 and 1, so that one row cannot be infinitely wrong."""
BLOCKS, MANY = 20, 100
Z95, T95 = 1.959963984540054, 2.093024054408263
"""Quantiles of a two-sided 95 % interval: the normal's, and Student's t with BLOCKS - 1 degrees of freedom."""
ONE_SIDED = 1.6448536269514722, 1.729132811521367
"""The same of a one-sided one."""
SKILL = "skill"
"""1 - loss / loss of the best constant on the same rows: comparable where the rate of the label moves."""


def row_losses(metric: str, outputs: Floats, truth: Truth) -> Floats:
    """Loss of each row: log_loss, brier or error of classes; rmse (squared error) or mae of values.

    Raises:
        KeyError: the metric has no per-row loss.
    """
    return ROW_LOSSES[metric](outputs, truth)


def constant_losses(metric: str, truth: Truth, classes: int) -> Floats:
    """Per-row losses of the best constant prediction on these very rows: what knowing nothing costs."""
    if classes:
        rates = np.bincount(truth.astype(np.int64), minlength=classes) / max(1, len(truth))
        return row_losses(metric, np.tile(rates, (len(truth), 1)), truth)
    values = truth.astype(np.float64)
    best = float(np.median(values)) if metric == "mae" else float(values.mean())
    return row_losses(metric, np.full(len(values), best), truth)


def own_average_losses(metric: str, outputs: Floats, truth: Truth) -> Floats:
    """Per-row losses of always saying the outputs' average: what a model that learned only the base rate would lose."""
    average = outputs.mean(axis=0, keepdims=True)
    return row_losses(metric, np.repeat(average, len(outputs), axis=0), truth)


def higher_is_better(metric: str) -> bool:
    """The metric's direction."""
    return metric in ("auc", "accuracy", "kappa", "r2", SKILL)


def measure(names: Sequence[str], outputs: Floats, truth: Truth, classes: int) -> tuple[Measured, ...]:
    """Named metrics with 95 % intervals where one is known; those that rows cannot give are left out."""
    found = [_measured(name, outputs, truth, classes) for name in dict.fromkeys(names)] if len(truth) else []
    return tuple(one for one in found if one is not None)


def _measured(name: str, outputs: Floats, truth: Truth, classes: int) -> Measured | None:
    if name == SKILL:
        return _skill(outputs, truth, classes)
    if name in ROW_LOSSES:
        value, low, high = mean_interval(row_losses(name, outputs, truth))
        if name == "rmse":
            value, low, high = (float(np.sqrt(max(0.0, one))) for one in (value, low, high))
        return _finite(name, value, low, high)
    value = METRICS[name](outputs, truth)
    if value is None:
        return None
    low, high = _auc_interval(value, truth) if name == "auc" else (None, None)
    return _finite(name, value, low, high)


def _skill(outputs: Floats, truth: Truth, classes: int) -> Measured | None:
    metric = "log_loss" if classes else "rmse"
    losses, constant = row_losses(metric, outputs, truth), constant_losses(metric, truth, classes)
    base = float(constant.mean())
    if base <= 0:
        return None
    value, low, high = mean_interval(losses - constant)
    return _finite(SKILL, -value / base, -high / base, -low / base)


def _finite(name: str, value: float, low: float | None, high: float | None) -> Measured | None:
    """None where outputs are so far off that their losses are no numbers."""
    ends = (one for one in (value, low, high) if one is not None)
    return Measured(name=name, value=value, low=low, high=high) if all(np.isfinite(one) for one in ends) else None


def mean_interval(values: Floats, quantiles: tuple[float, float] = (Z95, T95)) -> tuple[float, float, float]:
    """Mean of values in order of time, and its interval, of 95 % unless said otherwise.

    From BLOCK means (Schmeiser, Operations Research 30, 1982): rows that are near in time err together (one snow storm,
    many late flights), and an interval for independent rows would be several times too narrow. Never narrower than that
    one; below MANY rows only that one.
    """
    rows = len(values)
    mean = float(values.mean())
    if rows < 2:
        return mean, mean, mean
    normal, student = quantiles
    half = normal * float(values.std(ddof=1)) / math.sqrt(rows)
    if rows >= MANY:
        cuts = np.linspace(0, rows, BLOCKS + 1).astype(np.int64)
        means = np.add.reduceat(values, cuts[:-1]) / np.diff(cuts)
        half = max(half, student * float(means.std(ddof=1)) / math.sqrt(BLOCKS))
    return mean, mean - half, mean + half


def _log_loss(outputs: Floats, truth: Truth) -> Floats:
    chosen = outputs[np.arange(len(truth)), truth.astype(np.int64)]
    return -np.log(np.clip(chosen, CLIP, 1.0))


def _brier(outputs: Floats, truth: Truth) -> Floats:
    wanted = np.zeros_like(outputs)
    wanted[np.arange(len(truth)), truth.astype(np.int64)] = 1.0
    return ((outputs - wanted) ** 2).sum(axis=1)


def _error(outputs: Floats, truth: Truth) -> Floats:
    return (outputs.argmax(axis=1) != truth).astype(np.float64)


def _squared(outputs: Floats, truth: Truth) -> Floats:
    return (outputs.reshape(-1) - truth) ** 2


def _absolute(outputs: Floats, truth: Truth) -> Floats:
    return np.abs(outputs.reshape(-1) - truth)


ROW_LOSSES: dict[str, Callable[[Floats, Truth], Floats]] = {
    "log_loss": _log_loss,
    "brier": _brier,
    "error": _error,
    "rmse": _squared,
    "mse": _squared,
    "mae": _absolute,
}


def _accuracy(outputs: Floats, truth: Truth) -> float | None:
    return float((outputs.argmax(axis=1) == truth).mean())


def _auc(outputs: Floats, truth: Truth) -> float | None:
    """Area under the ROC curve by ranks (Mann-Whitney U); the mean over classes where there are more than two."""
    classes = outputs.shape[1]
    if classes == 2:
        return rank_auc(outputs[:, 1], truth == 1)
    areas = [rank_auc(outputs[:, one], truth == one) for one in range(classes)]
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if known else None


def rank_auc(scores: Floats, positive: NDArray[np.bool_]) -> float | None:
    """AUC of scores with ties counted half; None without both kinds."""
    good, bad = int(positive.sum()), int((~positive).sum())
    if not good or not bad:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - good * (good + 1) / 2) / (good * bad))


def _auc_interval(area: float, truth: Truth) -> tuple[float | None, float | None]:
    """Hanley and McNeil, Radiology 143 (1982)."""
    good = float((truth == 1).sum())
    bad = float(len(truth)) - good
    if good < 2 or bad < 2:
        return None, None
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (good - 1) * (one - area**2) + (bad - 1) * (two - area**2)) / (good * bad)
    half = Z95 * float(np.sqrt(max(0.0, variance)))
    return max(0.0, area - half), min(1.0, area + half)


def _kappa(outputs: Floats, truth: Truth) -> float | None:
    """Cohen's kappa: agreement beyond chance."""
    said = outputs.argmax(axis=1)
    observed = float((said == truth).mean())
    classes = outputs.shape[1]
    chance = float(sum((said == one).mean() * (truth == one).mean() for one in range(classes)))
    return None if chance >= 1 else (observed - chance) / (1 - chance)


def _r2(outputs: Floats, truth: Truth) -> float | None:
    spread = float(((truth - truth.mean()) ** 2).sum())
    return None if spread <= 0 else 1 - float(((outputs.reshape(-1) - truth) ** 2).sum()) / spread


METRICS: dict[str, Callable[[Floats, Truth], float | None]] = {
    "accuracy": _accuracy,
    "auc": _auc,
    "kappa": _kappa,
    "r2": _r2,
}
CLASSIFICATION = ("log_loss", "brier", "error", "accuracy", "auc", "kappa", SKILL)
REGRESSION = ("rmse", "mse", "mae", "r2", SKILL)


@dataclass(frozen=True)
class Better:
    """Whether one set of outputs loses less than another on the same rows."""

    difference: float
    """Mean loss of the candidate less the champion's; negative is better."""
    low: float
    """It is above this with 95 % confidence."""
    high: float
    """It is below this with 95 % confidence."""


def compare(metric: str, candidate: Floats, champion: Floats, truth: Truth) -> Better:
    """Paired difference of per-row losses with its one-sided bounds."""
    difference = row_losses(metric, candidate, truth) - row_losses(metric, champion, truth)
    return Better(*mean_interval(difference, ONE_SIDED))
