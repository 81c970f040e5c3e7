"""The search over hyperparameters: Optuna asked and told, the same answers after a restart."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

from ctloop.events.manifest import ParameterSpec
from ctloop_training.run_spec import Params, Trial


def distribution(parameter: ParameterSpec) -> BaseDistribution:
    """A declared range as Optuna names it."""
    if parameter.kind == "choice":
        return CategoricalDistribution(parameter.choices)
    assert parameter.low is not None and parameter.high is not None, "the compiler gives ranges both ends"
    if parameter.kind == "integer":
        return IntDistribution(int(parameter.low), int(parameter.high))
    return FloatDistribution(parameter.low, parameter.high, log=parameter.kind == "log")


def middle(parameter: ParameterSpec) -> Any:
    """What a plain call of the function uses; the first trial tries it."""
    if parameter.kind == "choice":
        return parameter.choices[0]
    assert parameter.low is not None and parameter.high is not None, "the compiler gives ranges both ends"
    if parameter.kind == "integer":
        return (int(parameter.low) + int(parameter.high)) // 2
    if parameter.kind == "log":
        return (parameter.low * parameter.high) ** 0.5
    return (parameter.low + parameter.high) / 2


class Search:
    """Suggests parameters by TPE; a suggestion depends on seed, number and the trials before it, nothing else."""

    def __init__(self, parameters: Sequence[ParameterSpec], *, trials: int, seed: int) -> None:
        self._parameters = parameters
        self._space = {one.name: distribution(one) for one in parameters}
        self._trials = trials
        self._seed = seed
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(direction="minimize")
        self.finished: tuple[Trial, ...] = ()

    def suggest(self, number: int) -> Params:
        """Parameters of a trial; the first is the middle of each range."""
        if number == 0:
            return tuple((one.name, middle(one)) for one in self._parameters)
        startup = min(10, max(2, self._trials // 3))
        self._study.sampler = optuna.samplers.TPESampler(seed=self._seed + number, n_startup_trials=startup)
        asked = self._study.ask(self._space)
        self._study.tell(asked, state=TrialState.FAIL)  # what came of it is told by tell()
        return tuple((name, asked.params[name]) for name in self._space)

    def tell(self, trial: Trial) -> None:
        """Take a finished trial into account."""
        self.finished = (*self.finished, trial)
        state = TrialState.COMPLETE if trial.value is not None else TrialState.FAIL
        self._study.add_trial(
            create_trial(params=dict(trial.params), distributions=self._space, value=trial.value, state=state)
        )

    @property
    def best(self) -> Trial | None:
        """The finished trial with the least value."""
        scored = [trial for trial in self.finished if trial.value is not None]
        return min(scored, key=lambda trial: (trial.value or 0.0, trial.number), default=None)
