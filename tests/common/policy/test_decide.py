"""When a retrain is worth it: the default policy fact by fact."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from ctloop.events.drift import DriftDetected, DriftResolved
from ctloop.events.model import PerformanceMeasured
from ctloop.events.values import Measured, Window
from ctloop.policy.conditions import compile_condition
from ctloop.policy.decide import NAMES, Decision, RetrainRule, decide, decide_manually
from ctloop.policy.state import ChampionState, PolicyState

WEEK = timedelta(days=7)
START = datetime(2013, 1, 28, tzinfo=UTC)
RULE = RetrainRule("log_loss", None, None, None)
CHAMPION = ChampionState(
    epoch=1, version=1, promoted_at=START,
    metrics=(Measured(name="log_loss", value=0.5, low=0.48, high=0.52), Measured(name="skill", value=0.1)),
    training_window=Window(start=START - 4 * WEEK, end=START, rows=24_000),
)  # fmt: skip


def measured(week: int, loss: float, skill: float, labels: int = 6000, epoch: int = 1) -> PerformanceMeasured:
    window = Window(start=START + week * WEEK, end=START + (week + 1) * WEEK, rows=labels)
    metrics = (
        Measured(name="log_loss", value=loss, low=loss - 0.02, high=loss + 0.02),
        Measured(name="skill", value=skill, low=skill - 0.02, high=skill + 0.02),
    )
    return PerformanceMeasured(
        model="flights", version=1, epoch=epoch, window=window, predictions=labels, labels=labels, coverage=1.0,
        metrics=metrics if labels else (), data_time=window.end,
    )  # fmt: skip


def after(*weeks: PerformanceMeasured, state: PolicyState | None = None) -> tuple[PolicyState, Decision]:
    state = state or PolicyState().on_champion(CHAMPION)
    for one in weeks:
        state = state.on_performance(one)
    return state, decide(state, RULE, weeks[-1].window.end)


def drifted(week: int) -> DriftDetected:
    window = Window(start=START + week * WEEK, end=START + (week + 1) * WEEK)
    return DriftDetected(
        model="flights", episode=UUID(int=1), kind="data", version=1, since=window.start, score=3.0, current=window,
        reference=window, data_time=window.end,
    )  # fmt: skip


def test_the_first_model_needs_a_hundred_labels() -> None:
    """Below it says so; at it, it acts; while the run is on its way it does not act again."""
    state = PolicyState().on_data(labelled=99, data_time=START)
    few = decide(state, RULE, START)
    assert not few.acts and "nothing is trained below 100" in few.reason
    state = state.on_data(labelled=1, data_time=START)
    first = decide(state, RULE, START)
    assert first.acts and first.trigger == "first-model"
    state = state.on_decided(first, "run")
    assert not decide(state, RULE, START).acts
    state = state.on_refused(START)
    assert not decide(state, RULE, START).acts
    assert decide(state.on_data(labelled=50, data_time=START), RULE, START).acts


def test_the_budget_holds_for_a_first_model_too() -> None:
    """What is spent comes back with data time, and is told."""
    state = PolicyState().on_data(labelled=1000, data_time=START)
    state = state.on_acted(START, "run").on_refused(START).on_data(labelled=9000, data_time=START)
    rule = replace(RULE, runs_per_day=1)
    spent = decide(state, rule, START)
    assert not spent.acts and "runs_today < budget does not hold" in spent.reason
    assert decide(state, rule, START + timedelta(days=1)).acts


def test_an_episode_that_ended_before_it_was_heard_of_is_no_evidence() -> None:
    """Two topics, no order between them; one of an earlier version is none either."""
    resolved = DriftResolved(
        model="flights", episode=UUID(int=1), kind="data", version=1, at=START + WEEK, why="returned"
    )
    state = PolicyState().on_champion(CHAMPION)
    assert state.on_resolved(resolved).on_drift(drifted(0)).drifts == ()
    assert state.on_drift(drifted(0)).on_resolved(resolved).drifts == ()
    other = drifted(0).model_copy(update={"version": CHAMPION.version + 1})
    assert state.on_drift(other).drifts == ()


def test_a_champion_as_good_as_ever_is_left_alone() -> None:
    """A retrain costs; nothing asks for it."""
    _, decision = after(measured(0, 0.5, 0.1), measured(1, 0.51, 0.09))
    assert not decision.acts and decision.tree.value is False and "does not hold" in decision.reason


def test_lost_performance_retrains_and_says_why() -> None:
    """Loss rose beyond both intervals, and skill fell with it."""
    _, decision = after(measured(0, 0.5, 0.1), measured(1, 0.62, 0.0), measured(2, 0.63, 0.01))
    assert decision.acts and decision.trigger == "performance"
    assert decision.reason.startswith("log_loss rose from 0.5 to 0.625 since Feb 04")


def test_a_harder_week_is_no_lost_performance() -> None:
    """Loss rises with the rate of the label; skill does not fall: nothing to do."""
    assert not after(measured(0, 0.62, 0.12), measured(1, 0.63, 0.1))[1].acts


def test_worse_than_a_constant_retrains_although_the_loss_is_low() -> None:
    """In an easy week a stale model looks good by its loss."""
    _, decision = after(measured(0, 0.4, -0.2), measured(1, 0.4, -0.2))
    assert decision.acts and decision.reason.startswith("worse than a constant since Jan 28")


def test_a_broken_champion_is_learned_anew() -> None:
    """So wrong that older rows would teach the same mistake: learn from the bad windows only; else from a long window."""
    _, broken = after(measured(0, 0.5, 0.1), measured(1, 1.6, -1.3), measured(2, 1.6, -1.3))
    assert broken.acts and broken.since == START + WEEK
    assert after(measured(0, 0.9, -0.3), measured(1, 0.9, -0.3))[1].since.year == 1000


def test_drift_alone_is_no_reason() -> None:
    """It is evidence: listed, never deciding."""
    state = PolicyState().on_champion(CHAMPION).on_drift(drifted(0)).on_drift(drifted(0))
    state, decision = after(measured(0, 0.5, 0.1), measured(1, 0.5, 0.1), state=state)
    assert not decision.acts and "drift of 3 alone is no reason" in decision.reason
    assert decision.causes == (UUID(int=1),)
    resolved = DriftResolved(
        model="flights", episode=UUID(int=1), kind="data", version=1, at=START + 2 * WEEK, why="returned"
    )
    assert state.on_resolved(resolved).drifts == ()


def test_a_few_labels_are_no_evidence_and_refusals_ask_for_more() -> None:
    """Each run that brought nothing doubles what the next one needs."""
    assert not after(measured(0, 0.9, -0.5, labels=200), measured(1, 0.9, -0.5, labels=200))[1].acts
    state = PolicyState().on_champion(CHAMPION)
    for _ in range(5):
        state = state.on_refused(START)
    weeks = (measured(0, 0.9, -0.5), measured(1, 0.9, -0.5))
    assert not after(*weeks, state=state)[1].acts  # 500 * 2 ** 5 > 12,000
    assert after(*weeks, state=PolicyState().on_champion(CHAMPION).on_refused(START))[1].acts


def test_cooldown_budget_and_a_running_run_hold_it_back() -> None:
    """On data time, not on the wall clock."""
    bad = (measured(0, 0.9, -0.5), measured(1, 0.9, -0.5))
    state, decision = after(*bad)
    assert decision.acts
    running = state.on_decided(decision, "run")
    assert not decide(running, RULE, decision.now + WEEK).acts
    ended = running.on_refused(decision.now)
    assert not decide(ended, RULE, decision.now + WEEK / 2).acts
    assert decide(ended, RULE, decision.now + WEEK).acts
    assert not decide(ended, replace(RULE, runs_per_day=1, cooldown=timedelta(0)), decision.now + WEEK / 14).acts
    assert decide(ended, replace(RULE, runs_per_day=2, cooldown=timedelta(0)), decision.now + WEEK / 14).acts


def test_a_heartbeat_renews_what_was_learned() -> None:
    """Nothing is wrong, but the champion's four weeks are all over: try anew, and wait twice as long after a refusal."""
    calm = [measured(week, 0.5, 0.1) for week in range(4)]
    assert not after(*calm[:3])[1].acts
    state, decision = after(*calm)
    assert decision.acts and decision.trigger == "heartbeat"
    assert decision.reason == "28 days since the last run, the champion learned from 28: all of it may be renewed"
    refused = state.on_decided(decision, "run").on_refused(decision.now)
    assert not decide(refused, RULE, decision.now + 7 * WEEK).acts
    assert decide(refused, RULE, decision.now + 8 * WEEK).acts


def test_a_heartbeat_without_labels_waits() -> None:
    """There would be nothing new to learn."""
    unlabelled = [measured(week, 0.5, 0.1, labels=0) for week in range(2, 6)]
    assert not after(*unlabelled)[1].acts


def test_runs_that_bring_nothing_do_not_run_away() -> None:
    """A condition of the user's own that always holds: five refusals, then it waits for the next day."""
    rule = replace(RULE, own=compile_condition("rows >= 0", NAMES), cooldown=timedelta(0))
    state, now = PolicyState().on_champion(CHAMPION), START + WEEK
    for minute in range(5):
        now += timedelta(minutes=minute)
        decision = decide(state, rule, now)
        assert decision.acts
        state = state.on_decided(decision, f"run {minute}").on_refused(now)
    tired = decide(state, rule, now)
    assert not tired.acts and "refused_today < patience does not hold" in tired.reason
    assert decide(state, rule, now + timedelta(days=1)).acts


def test_no_labels_is_no_evidence() -> None:
    """Unknown does not fire."""
    _, decision = after(measured(0, 0.5, 0.1, labels=0))
    assert not decision.acts and decision.reason == "no labels yet to judge the champion by"


def test_the_users_condition_takes_the_default_ones_place() -> None:
    """Within cooldown and budget."""
    own = replace(RULE, own=compile_condition("log_loss > 0.45", NAMES | {"log_loss"}), cooldown=timedelta(0))
    state, _ = after(measured(0, 0.5, 0.1))
    decision = decide(state, own, START + WEEK)
    assert decision.acts and decision.trigger == "condition"
    assert not decide(state, replace(own, runs_per_day=0), START + WEEK).acts


def test_a_window_measured_again_replaces_itself() -> None:
    """In any order, and a fact of another epoch changes nothing."""
    one, two, again = measured(0, 0.5, 0.1), measured(1, 0.6, 0.0), measured(0, 0.55, 0.05)
    forward, _ = after(one, two, again)
    backward, _ = after(two, one, again, measured(3, 9.0, -9.0, epoch=7))
    assert forward.windows == backward.windows and len(forward.windows) == 2
    assert forward.windows[0].metrics[0].value == 0.55


def test_a_new_champion_starts_anew() -> None:
    """Its windows, drifts and patience; an older epoch is ignored."""
    state, _ = after(measured(0, 0.9, -0.5), state=PolicyState().on_champion(CHAMPION).on_refused(START))
    later = state.on_champion(CHAMPION.model_copy(update={"epoch": 2, "version": 2}))
    assert later.windows == () and later.refused == 0 and later.is_champion(2)
    assert later.on_champion(CHAMPION) == later


def test_the_state_survives_json() -> None:
    """PostgreSQL keeps it between facts."""
    state, decision = after(measured(0, 0.9, -0.5), measured(1, 0.9, -0.5))
    state = state.on_data(labelled=5, data_time=START).on_drift(drifted(1)).on_decided(decision, "run")
    assert PolicyState.from_json(state.to_json()) == state


@pytest.mark.parametrize("reason", ["", "because"])
def test_a_person_decides_at_any_time(reason: str) -> None:
    """Whatever the state."""
    decision = decide_manually(PolicyState(), reason, START)
    assert decision.acts and decision.trigger == "manual" and decision.reason
