"""Is a retrain worth it now? Performance on late labels decides, with enough evidence; drift is evidence only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from ctloop.events.manifest import Manifest
from ctloop.events.values import EvaluatedNode, Measured
from ctloop.policy.conditions import Node, Value, compile_condition, evaluate, fires
from ctloop.policy.losses import SKILL, higher_is_better
from ctloop.policy.split import SMALLEST
from ctloop.policy.state import DAY, MeasuredWindow, PolicyState

Trigger = Literal["first-model", "performance", "drift", "condition", "heartbeat", "manual"]
ALWAYS = datetime(1000, 1, 1, tzinfo=UTC)
"""Before all records."""
MAX_ROWS = 50_000
"""Newest labelled rows a run learns from."""
RECENT = 2
"""Windows that are judged together."""
EVIDENCE = 500
"""Labels needed; doubled by every run in a row that brought nothing."""
BROKEN, FRESH = -0.5, 1_000
"""Skill below which what was learned no longer holds, and labels since then that suffice to learn anew."""
FIRST_GROWTH = 1.5
"""How much more must be labelled before a first model is tried again."""

FIRST = f"labelled >= {SMALLEST} and labelled >= needed and runs_today < budget and not running"
DEFAULT = (
    "(loss_low > reference_high and skill_high < reference_skill or skill_high < 0 or days_since_run >= heartbeat_days)"
    " and labels >= needed and days_since_run >= cooldown_days and runs_today < budget"
    " and refused_today < patience and not running"
)
OWN = "days_since_run >= cooldown_days and runs_today < budget and refused_today < patience and not running"
NAMES = frozenset(
    {
        *("labelled", "needed", "running", "labels", "rows", "drift"),
        *("loss_low", "reference_high", "skill_high", "reference_skill"),
        *("days_since_run", "cooldown_days", "heartbeat_days", "runs_today", "budget"),
        *("refused_today", "patience"),
    }
)
FIRST_NODE, DEFAULT_NODE, OWN_NODE = (compile_condition(one, NAMES) for one in (FIRST, DEFAULT, OWN))


@dataclass(frozen=True)
class RetrainRule:
    """What a manifest says of retraining."""

    metric: str
    own: Node | None
    cooldown: timedelta | None
    runs_per_day: int | None
    patience: int = 5
    """Runs of a day that may bring nothing before it waits for the next one: the guard against runaway loops."""

    @classmethod
    def of(cls, manifest: Manifest) -> "RetrainRule":
        """The rule of a manifest."""
        spec = manifest.retrain
        return cls(
            manifest.metric,
            Node.from_json(spec.condition.tree) if spec.condition else None,
            timedelta(seconds=spec.cooldown_seconds) if spec.cooldown_seconds is not None else None,
            spec.runs_per_day,
            spec.loops_without_gain,
        )


@dataclass(frozen=True)
class Decision:
    """What was concluded, with every node's value."""

    acts: bool
    trigger: Trigger | None
    reason: str
    tree: EvaluatedNode
    now: datetime
    """Data time."""
    since: datetime = ALWAYS
    """Records before this are not learned from."""
    max_rows: int = MAX_ROWS
    causes: tuple[UUID, ...] = ()
    """Episodes that were open."""


def decide(state: PolicyState, rule: RetrainRule, now: datetime) -> Decision:
    """The default policy, or the user's own condition in its place."""
    if state.champion is None:
        return _first(state, rule, now)
    values = _values(state, rule, now)
    causes = tuple(one.episode for one in state.drifts)
    if rule.own is not None:
        asked = Node("and", f"({rule.own.text}) and {OWN}", (rule.own, OWN_NODE))
        tree = evaluate(asked, values)
        acts = fires(tree)
        reason = f"{rule.own.text}" if acts else f"not yet: {_blocking(tree)}"
        return Decision(acts, "condition" if acts else None, reason, tree, now, causes=causes)
    tree = evaluate(DEFAULT_NODE, values)
    if not fires(tree):
        return Decision(False, None, _calm_sentence(state, rule, tree, values), tree, now, causes=causes)
    *worse, _ = tree.args[0].args
    if not any(fires(one) for one in worse):
        return Decision(True, "heartbeat", _heartbeat_sentence(state, values), tree, now, causes=causes)
    since = _learn_since(state, values)
    return Decision(True, "performance", _worse_sentence(state, rule, values), tree, now, since=since, causes=causes)


def _learn_since(state: PolicyState, values: dict[str, Value]) -> datetime:
    """A long window, unless the champion is so wrong that rows from before would teach the same mistake again."""
    skill, labels = values["skill_high"], values["labels"]
    broken = isinstance(skill, float) and skill < BROKEN and isinstance(labels, float) and labels >= FRESH
    return state.windows[-RECENT:][0].window.start if broken else ALWAYS


def decide_manually(state: PolicyState, reason: str, now: datetime) -> Decision:
    """A person's decision."""
    tree = EvaluatedNode(text="asked by a person", op="manual", value=True, note=reason)
    return Decision(True, "manual", reason or "asked by a person", tree, now)


def _first(state: PolicyState, rule: RetrainRule, now: datetime) -> Decision:
    needed = state.labelled_at_decision * FIRST_GROWTH
    values: dict[str, Value] = {
        "labelled": float(state.labelled), "needed": needed, "running": state.open_run is not None,
        **_spent(state, rule, now),
    }  # fmt: skip
    tree = evaluate(FIRST_NODE, values)
    if fires(tree):
        return Decision(True, "first-model", f"no model yet, {state.labelled:,} labelled rows", tree, now)
    if state.open_run is not None:
        reason = "no model yet; a run is on its way"
    elif state.labelled < SMALLEST:
        reason = f"no model yet; {state.labelled} labelled rows, nothing is trained below {SMALLEST}"
    elif state.labelled >= needed:
        reason = f"no model yet; {_blocking(tree)}"
    else:
        before = "the last run brought no model; tried" if state.decided_at else "no model yet; asked"
        reason = f"{before} again at {needed:,.0f} labelled rows ({state.labelled:,} now)"
    return Decision(False, None, reason, tree, now)


def _values(state: PolicyState, rule: RetrainRule, now: datetime) -> dict[str, Value]:
    champion = state.champion
    assert champion is not None
    recent = state.windows[-RECENT:]
    loss, skill = pooled(recent, rule.metric), pooled(recent, SKILL)
    reference = {one.name: one for one in champion.metrics}
    since_run = max((*state.decided_at[-1:], champion.promoted_at))
    cooldown = rule.cooldown if rule.cooldown is not None else champion.window_length
    learned, slower = champion.training_window, 2 ** min(state.refused, 10)
    values: dict[str, Value] = {
        "loss_low": loss.low if loss else None,
        "reference_high": _end(reference.get(rule.metric), high=True),
        "skill_high": skill.high if skill else None,
        "reference_skill": reference[SKILL].value if SKILL in reference else None,
        "labels": float(sum(one.labels for one in recent)),
        "needed": float(EVIDENCE * slower),
        "days_since_run": (now - since_run) / DAY,
        "cooldown_days": cooldown / DAY,
        "heartbeat_days": (learned.end - learned.start) / DAY * slower,
        **_spent(state, rule, now),
        "running": state.open_run is not None,
        "rows": float(state.labelled - state.labelled_at_decision),
        "drift": max((one.score for one in state.drifts if one.kind == "data"), default=0.0),
    }
    for one in recent[-1].metrics if recent else ():
        values[one.name] = one.value
    values |= {f"psi('{one.name}')": one.score for drift in state.drifts for one in drift.features}
    values |= {f"champion.{one.name}": one.value for one in champion.metrics}
    return values


def _spent(state: PolicyState, rule: RetrainRule, now: datetime) -> dict[str, Value]:
    """Runs of the last day of data time, those of them that brought nothing, and how many there may be of each."""
    today = sum(1 for one in state.decided_at if now - one < DAY)
    return {
        "runs_today": float(today),
        "budget": float(rule.runs_per_day) if rule.runs_per_day is not None else 1e9,
        "refused_today": float(min(today, state.refused)),
        "patience": float(rule.patience),
    }


def pooled(windows: Sequence[MeasuredWindow], metric: str) -> Measured | None:
    """One value of several windows: mean weighted by labels, with the interval of independent parts."""
    parts = [(one.labels, found) for one in windows if one.labels for found in one.metrics if found.name == metric]
    total = sum(labels for labels, _ in parts)
    if not total:
        return None
    value = sum(labels * one.value for labels, one in parts) / total
    halves = [
        (labels / total) * ((one.high - one.low) / 2)
        for labels, one in parts
        if one.low is not None and one.high is not None
    ]
    half = sum(one**2 for one in halves) ** 0.5
    return Measured(name=metric, value=value, low=value - half, high=value + half)


def _end(measured: Measured | None, *, high: bool) -> float | None:
    if measured is None:
        return None
    end = measured.high if high else measured.low
    return measured.value if end is None else end


def _worse_sentence(state: PolicyState, rule: RetrainRule, values: dict[str, Value]) -> str:
    champion = state.champion
    assert champion is not None
    recent = state.windows[-RECENT:]
    now = pooled(recent, rule.metric)
    then = next((one.value for one in champion.metrics if one.name == rule.metric), 0.0)
    assert now is not None
    word = "fell" if higher_is_better(rule.metric) else "rose"
    drift = f"; {len(state.drifts)} drift episode(s) open" if state.drifts else ""
    skill = values["skill_high"]
    if isinstance(skill, float) and skill < 0:
        return (
            f"worse than a constant since {recent[0].window.start:%b %d} on {int(float(values['labels'] or 0)):,} labels"
            f" ({rule.metric} {now.value:.3g}, {then:.3g} at the gates){drift}"
        )
    return (
        f"{rule.metric} {word} from {then:.3g} to {now.value:.3g} since {recent[0].window.start:%b %d}"
        f" on {int(float(values['labels'] or 0)):,} labels, and skill with it{drift}"
    )


def _heartbeat_sentence(state: PolicyState, values: dict[str, Value]) -> str:
    assert state.champion is not None
    learned = state.champion.training_window
    return (
        f"{float(values['days_since_run'] or 0):.3g} days since the last run, the champion learned from"
        f" {(learned.end - learned.start) / DAY:.3g}: all of it may be renewed"
    )


def _calm_sentence(state: PolicyState, rule: RetrainRule, tree: EvaluatedNode, values: dict[str, Value]) -> str:
    now = pooled(state.windows[-RECENT:], rule.metric)
    if now is None:
        return "no labels yet to judge the champion by"
    drift = f"drift of {values['drift']:.2g} alone is no reason: " if state.drifts else ""
    return f"{drift}{rule.metric} {now.value:.3g}; {_blocking(tree)}"


def _blocking(tree: EvaluatedNode) -> str:
    """The first part of a conjunction that does not hold, in words."""
    return next((_lacking(one) for one in tree.args if one.value is not True), tree.text)


def _lacking(node: EvaluatedNode) -> str:
    """Why a node does not hold; of a choice, each way."""
    if node.op == "and":
        return _blocking(node)
    if node.op == "or":
        return "; ".join(_lacking(one) for one in node.args)
    if node.text == "not running":
        return "a run is on its way"
    sides = [f"{side.text} {side.value:.4g}" for side in node.args if isinstance(side.value, float)]
    return f"{node.text} does not hold" + (f" ({', '.join(sides)})" if sides else "")
