"""The user's rollback condition over a measured window."""

from ctloop.events.manifest import ConditionSpec
from ctloop.events.model import PerformanceMeasured
from ctloop.policy import conditions
from ctloop.policy.conditions import Node, Value


def fires(condition: ConditionSpec, said: PerformanceMeasured) -> bool:
    """Whether the condition holds in the window; what is not known does not fire."""
    values: dict[str, Value] = {one.name: one.value for one in said.metrics}
    values |= {"labels": float(said.labels), "rows": float(said.predictions)}
    return conditions.fires(conditions.evaluate(Node.from_json(condition.tree), values))
