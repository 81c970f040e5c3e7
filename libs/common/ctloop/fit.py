"""The decorated fit function: ``@ct.model``, its ranges, and the conditions a user adds to it."""

import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Literal, Self, get_args

from ctloop.events.manifest import NAME, ParameterSpec, RecordSpec
from ctloop.events.values import Resources
from ctloop.problems import Problem, did_you_mean
from ctloop.record import Record

Task = Literal["classification", "regression"]
Autonomy = Literal["watch", "propose", "act"]
Value = str | int | float | bool

DECIDING: dict[Task, tuple[str, ...]] = {"classification": ("log_loss",), "regression": ("rmse", "mae")}
"""Metrics with a loss per row, which can decide; the first is the default."""
REPORTED: dict[Task, tuple[str, ...]] = {
    "classification": ("log_loss", "auc", "accuracy", "brier", "kappa"),
    "regression": ("rmse", "mae", "r2"),
}


@dataclass(frozen=True)
class Range:
    """The values a hyperparameter may take."""

    kind: Literal["integer", "real", "log", "choice"]
    low: float | None = None
    high: float | None = None
    choices: tuple[Value, ...] = ()

    @property
    def middle(self) -> Value:
        """What a plain call uses: the middle (geometric of a log range), the first of a choice."""
        if self.kind == "choice":
            return self.choices[0]
        assert self.low is not None and self.high is not None
        if self.kind == "integer":
            return (int(self.low) + int(self.high)) // 2
        return math.sqrt(self.low * self.high) if self.kind == "log" else (self.low + self.high) / 2

    def spec(self, name: str) -> ParameterSpec:
        """For the manifest."""
        return ParameterSpec(name=name, kind=self.kind, low=self.low, high=self.high, choices=self.choices)


def log(low: float, high: float) -> Any:
    """A real number searched on a logarithmic scale."""
    return Range("log", *_bounds("log", low, high, above=0))


def real(low: float, high: float) -> Any:
    """A real number."""
    return Range("real", *_bounds("real", low, high))


def integer(low: int, high: int) -> Any:
    """A whole number, both ends included."""
    if any(isinstance(one, bool) or one != int(one) for one in (low, high)):
        raise Problem("CT1202", f"ct.integer({low!r}, {high!r}) has an end that is no whole number")
    return Range("integer", *_bounds("integer", low, high))


def choice(*options: Value) -> Any:
    """One of some values; a plain call uses the first."""
    if not options or any(not isinstance(one, str | int | float | bool) for one in options):
        raise Problem("CT1202", f"ct.choice{options!r}", 'ct.choice("l1", "l2"): text, numbers or booleans.')
    return Range("choice", choices=options)


def _bounds(kind: str, low: float, high: float, *, above: float = -math.inf) -> tuple[float, float]:
    numbers = all(isinstance(one, int | float) and math.isfinite(one) for one in (low, high))
    if not numbers or not above < low < high:
        raise Problem("CT1202", f"ct.{kind}({low!r}, {high!r})", "The lower end comes first; of ct.log it is above 0.")
    return low, high


@dataclass(frozen=True)
class Settings:
    """The arguments of ``@ct.model`` that are not about what is learnt."""

    metric: str
    report: tuple[str, ...]
    owner: str
    trials: int | None
    resources: Resources
    time_limit_seconds: float
    runs_per_day: int | None
    autonomy: Autonomy
    seed: int


class Model:
    """A fit function with what was declared about it. Calling it fits with the middle of each range."""

    def __init__(self, function: Callable[..., Any], record: type[Record], settings: Settings) -> None:
        update_wrapper(self, function)
        self.function = function
        self.record = record
        self.settings = settings
        self.name = function.__name__
        self.ranges = _ranges(function)
        self.gates: list[str] = []
        self.retrain_text: str | None = None
        self.cooldown_seconds: float | None = None
        self.rollback_text: str | None = None
        self.lines: dict[str, int] = {}
        """Where the user's file says each condition."""

    @property
    def spec(self) -> RecordSpec:
        """The compiled record class."""
        return self.record.spec

    @property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        """The hyperparameters that have a range."""
        return tuple(one.spec(name) for name, one in self.ranges.items())

    @property
    def defaults(self) -> dict[str, Value]:
        """The middle of each range."""
        return {name: one.middle for name, one in self.ranges.items()}

    def fit(self, X: Any, y: Any, **params: Any) -> Any:
        """The user's function; a parameter that is not given has the middle of its range."""
        return self.function(X, y, **{**self.defaults, **params})

    def __call__(self, X: Any, y: Any, **params: Any) -> Any:
        return self.fit(X, y, **params)

    def gate(self, *conditions: str) -> Self:
        """Conditions a candidate must keep, beside the default ones."""
        self.gates.extend(self._said("gate", conditions))
        return self

    def retrain(self, condition: str, *, cooldown: str | float | None = None) -> Self:
        """When to retrain instead of the default policy; ``cooldown`` is data time between two runs, e.g. "1h"."""
        (self.retrain_text,) = self._said("retrain", (condition,))
        self.cooldown_seconds = None if cooldown is None else seconds("cooldown", cooldown)
        return self

    def rollback(self, condition: str) -> Self:
        """When to go back to the version before."""
        (self.rollback_text,) = self._said("rollback", (condition,))
        return self

    def _said(self, name: str, conditions: Sequence[str]) -> list[str]:
        texts = _texts(name, conditions)
        self.lines.update(dict.fromkeys(texts, inspect.stack(0)[2].lineno))
        return texts

    def __repr__(self) -> str:
        return f"<ctloop model {self.name} of {self.spec.dataset}>"


def model(
    record: type[Record],
    *,
    metric: str | None = None,
    report: Sequence[str] = (),
    owner: str = "",
    trials: int | None = None,
    cpus: float = 1,
    gpu: str | float = 0,
    gpu_mib: int | None = None,
    memory: str | int | None = None,
    time_limit: str | float = 600,
    budget: str | None = None,
    autonomy: Autonomy = "act",
    seed: int = 0,
) -> Callable[[Callable[..., Any]], Model]:
    """Declare a model: the decorated function takes (X, y) and returns a fitted estimator.

    ``metric`` decides (default: log_loss, or rmse), ``report`` is shown beside it. ``time_limit`` is for one call
    ("10m"), ``memory`` like "2 GiB", ``budget`` like "20 runs/day", ``trials`` of the search (default: 6 where there is
    a range, else 1).
    """
    if not (isinstance(record, type) and issubclass(record, Record)):
        raise Problem("CT1205", f"@ct.model({record!r}) is not given a record class", "@ct.model(Flight)")
    task = task_of(record.spec)
    settings = Settings(
        metric=_metric(metric, task),
        report=_report(report, task),
        owner=owner,
        trials=_positive("trials", trials),
        resources=_resources(cpus, gpu, gpu_mib, memory),
        time_limit_seconds=seconds("time_limit", time_limit),
        runs_per_day=_budget(budget),
        autonomy=_autonomy(autonomy),
        seed=seed,
    )
    return lambda function: Model(function, record, settings)


def task_of(spec: RecordSpec) -> Task:
    """Classification for a label that is bool, str or Literal; regression for int and float, and where there is none."""
    label = spec.label
    discrete = label is not None and (label.kind in ("boolean", "string") or label.allowed is not None)
    return "classification" if discrete else "regression"


def seconds(name: str, value: str | float) -> float:
    """A duration: a number of seconds, or "90s", "10m", "1h", "2d"."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d)\s*", value)
        number = float(found[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}[found[2]] if found else -1.0
    else:
        number = float(value)
    if not 0 < number < math.inf:
        raise Problem("CT1205", f"{name}={value!r} is no duration", f'{name}="10m"')
    return number


def _ranges(function: Callable[..., Any]) -> dict[str, Range]:
    if not callable(function) or not re.fullmatch(NAME, getattr(function, "__name__", "")):
        shown = getattr(function, "__name__", repr(function))
        raise Problem("CT1107", f"model {shown!r}", "A function's name in lower case names the model.")
    parameters = list(inspect.signature(function).parameters.values())
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if len(positional) < 2 or any(isinstance(one.default, Range) for one in positional[:2]):
        raise Problem("CT1201", f"{function.__name__}{inspect.signature(function)} does not take (X, y)")
    rest = [one for one in parameters if one not in positional[:2]]
    for one in rest:
        if one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL):
            raise Problem("CT1201", f"argument {one.name!r} of {function.__name__} has neither range nor default")
    return {one.name: one.default for one in rest if isinstance(one.default, Range)}


def _texts(name: str, conditions: Sequence[str]) -> list[str]:
    wrong = next((one for one in conditions if not isinstance(one, str) or not one.strip()), None)
    if wrong is not None or not conditions:
        raise Problem("CT1206", f".{name}({wrong!r}) is not given a condition in quotes")
    return [one.strip() for one in conditions]


def _metric(metric: str | None, task: Task) -> str:
    name = metric or DECIDING[task][0]
    if name in DECIDING[task]:
        return name
    if name in REPORTED[task]:
        raise Problem("CT1204", f"{name} has no loss per row", f'metric="{DECIDING[task][0]}", report=["{name}"]')
    near = did_you_mean(name, DECIDING[task])
    raise Problem("CT1203", f"metric={name!r} for {task}", near or f"Known: {', '.join(DECIDING[task])}")


def _report(report: Sequence[str], task: Task) -> tuple[str, ...]:
    names = (report,) if isinstance(report, str) else tuple(report)
    if wrong := next((one for one in names if one not in REPORTED[task]), None):
        near = did_you_mean(wrong, REPORTED[task])
        raise Problem("CT1203", f"report={wrong!r} for {task}", near or f"Known: {', '.join(REPORTED[task])}")
    return tuple(dict.fromkeys(names))


def _positive(name: str, value: int | None) -> int | None:
    if value is None or (isinstance(value, int) and 1 <= value <= 1000):
        return value
    raise Problem("CT1205", f"{name}={value!r}", f"{name}=6: a whole number from 1 to 1000.")


def _resources(cpus: float, gpu: str | float, gpu_mib: int | None, memory: str | int | None) -> Resources:
    try:
        gpus = float(gpu)
    except ValueError:
        gpus = -1.0
    if not (cpus > 0 and 0 <= gpus < math.inf) or (gpu_mib is not None and gpu_mib < 1):
        raise Problem("CT1205", f"cpus={cpus!r}, gpu={gpu!r}, gpu_mib={gpu_mib!r}", 'cpus=2, gpu="0.5", gpu_mib=4000')
    return Resources(cpus=float(cpus), gpus=gpus, gpu_mib=gpu_mib, memory_bytes=_bytes(memory))


def _bytes(memory: str | int | None) -> int | None:
    if memory is None or (isinstance(memory, int) and memory > 0):
        return memory
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG])(i?)B?\s*", str(memory))
    if not found:
        raise Problem("CT1205", f"memory={memory!r}", 'memory="2 GiB"')
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** {"K": 1, "M": 2, "G": 3}[found[2]])


def _budget(budget: str | None) -> int | None:
    if budget is None:
        return None
    found = re.fullmatch(r"\s*(\d+)\s*runs?\s*/\s*day\s*", budget)
    if not found:
        raise Problem("CT1205", f"budget={budget!r}", 'budget="20 runs/day"')
    return int(found[1])


def _autonomy(autonomy: Autonomy) -> Autonomy:
    if autonomy not in get_args(Autonomy):
        raise Problem("CT1205", f"autonomy={autonomy!r}", f"Known: {', '.join(get_args(Autonomy))}")
    return autonomy
