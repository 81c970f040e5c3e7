"""The search gives the same suggestions after a restart, and starts at the middle of each range."""

from ctloop.events.manifest import ParameterSpec
from ctloop_training.run_spec import Params, Trial
from ctloop_training.search import Search

PARAMETERS = (
    ParameterSpec(name="rate", kind="log", low=0.01, high=1.0),
    ParameterSpec(name="leaves", kind="integer", low=4, high=64),
    ParameterSpec(name="share", kind="real", low=0.0, high=1.0),
    ParameterSpec(name="penalty", kind="choice", choices=("l1", "l2")),
)


def loss(params: Params) -> float:
    """Something with a minimum inside the ranges."""
    values = dict(params)
    return (float(values["rate"]) - 0.3) ** 2 + (float(values["leaves"]) / 64 - 0.5) ** 2


def run(search: Search, first: int, last: int) -> list[Trial]:
    trials: list[Trial] = []
    for number in range(first, last):
        params = search.suggest(number)
        trials.append(Trial(number=number, params=params, value=loss(params), seconds=0.1))
        search.tell(trials[-1])
    return trials


def test_first_trial_is_the_middle_of_each_range() -> None:
    """A plain call of the function and the first trial agree."""
    params = dict(Search(PARAMETERS, trials=6, seed=1).suggest(0))
    assert params == {"rate": 0.1, "leaves": 34, "share": 0.5, "penalty": "l1"}


def test_a_restarted_search_goes_on_as_if_nothing_had_happened() -> None:
    """Told the trials that ended under an earlier fence, it suggests what the undisturbed search suggests."""
    undisturbed = run(Search(PARAMETERS, trials=8, seed=3), 0, 8)
    restarted = Search(PARAMETERS, trials=8, seed=3)
    for trial in undisturbed[:5]:
        restarted.tell(trial)
    assert run(restarted, 5, 8) == undisturbed[5:]


def test_another_seed_is_another_search() -> None:
    """Seeds come from the manifest."""
    assert run(Search(PARAMETERS, trials=4, seed=1), 0, 4) != run(Search(PARAMETERS, trials=4, seed=2), 0, 4)


def test_a_failed_trial_is_never_the_best() -> None:
    """A set of parameters the function fails with counts, and loses."""
    search = Search(PARAMETERS, trials=3, seed=1)
    search.tell(Trial(number=0, params=search.suggest(0), value=None, seconds=0.0))
    assert search.best is None
    (good,) = run(search, 1, 2)
    assert search.best == good


def test_every_suggestion_is_in_its_range() -> None:
    """What is suggested is what was declared."""
    for trial in run(Search(PARAMETERS, trials=12, seed=5), 0, 12):
        values = dict(trial.params)
        assert 0.01 <= float(values["rate"]) <= 1.0
        assert isinstance(values["leaves"], int) and 4 <= values["leaves"] <= 64
        assert values["penalty"] in ("l1", "l2")
