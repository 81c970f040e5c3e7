"""The string language: what it allows, three-valued evaluation, every node's value."""

import math

import pytest

from ctloop.policy.conditions import ConditionError, Node, compile_condition, evaluate, fires, names, render

KNOWN = frozenset({"auc", "log_loss", "rows", "p99_ms"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auc >= champion.auc - 0.01", True),
        ("0.1 < log_loss <= 0.5", True),
        ("rows > 50_000 or auc < 0.6", False),
        ("not (auc > 0.9) and p99_ms * 2 <= 20", True),
        ("-auc < 0 and rows / 2 == 500", True),
    ],
)
def test_conditions_mean_what_python_means(text: str, expected: bool) -> None:
    """Comparisons, chains, logic and arithmetic have Python's precedence."""
    values = {"auc": 0.7, "champion.auc": 0.705, "log_loss": 0.5, "rows": 1000.0, "p99_ms": 4.0}
    assert evaluate(compile_condition(text, KNOWN), values).value is expected


@pytest.mark.parametrize(
    "text",
    ["", "auc >", "__import__('os')", "auc.real", "x > 1", "auc[0]", "lambda: 1", "auc > 1 if rows else 0", "auc ** 9",
     "rows > 'a'", "psi('other') > 0.2", "slice('temp').auc > 0", "champion.champion.auc > 0",
     "slice(auc).auc > 0", "auc := 1", "(" * 200, "auc > " + "1" * 2000],
)  # fmt: skip
def test_anything_else_is_refused_with_its_place(text: str) -> None:
    """What the language does not have is a ConditionError, never a crash and never run."""
    with pytest.raises(ConditionError) as refused:
        compile_condition(text, KNOWN, {"temp"})
    assert refused.value.column >= 1 and str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auc > 0.5 and rows > 1", None),
        ("auc > 0.5 and rows > 9", False),
        ("auc > 0.5 or rows > 1", True),
        ("not auc > 0.5", None),
        ("auc + rows > 0", None),
    ],
)
def test_unknown_is_a_third_value(text: str, expected: bool | None) -> None:
    """Kleene: unknown decides nothing that the known part decides alone, and never fires."""
    found = evaluate(compile_condition(text, KNOWN), {"rows": 5.0})
    assert found.value is expected
    assert fires(found) is (expected is True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_fires(value: float) -> None:
    """It is shown as such, and both a condition and its opposite stay silent."""
    for text in ("auc > 0.5", "not auc > 0.5", "auc < 0.5"):
        found = evaluate(compile_condition(text, KNOWN), {"auc": value})
        assert not fires(found) and "not finite" in "\n".join(render(found))


def test_a_missing_champion_says_so() -> None:
    """The whole condition carries the note the gates look at."""
    found = evaluate(compile_condition("auc >= champion.auc - 0.01", KNOWN), {"auc": 0.7})
    assert found.value is None and found.note == "no champion yet"


def test_the_tree_survives_json_and_names_its_needs() -> None:
    """Manifest, evaluation and why share one tree."""
    node = compile_condition("auc >= champion.auc - 0.01 and rows > 1_000", KNOWN)
    again = Node.from_json(node.to_json())
    assert again == node and again.to_json() == node.to_json()
    assert names(node) == {"auc", "champion.auc", "rows"}


def test_every_node_keeps_its_value() -> None:
    """What why prints: each part with what it was."""
    shown = render(evaluate(compile_condition("auc >= champion.auc - 0.01", KNOWN), {"auc": 0.7, "champion.auc": 0.75}))
    assert shown[0] == "auc >= champion.auc - 0.01 = no"
    assert "  auc = 0.7" in shown and "  champion.auc - 0.01 = 0.74" in shown


def test_psi_names_a_column() -> None:
    """Unknown, and silent, as long as no drift of it is open."""
    node = compile_condition("psi('temp') > 0.2", KNOWN, {"temp"})
    assert fires(evaluate(node, {"psi('temp')": 0.3})) and not fires(evaluate(node, {}))


def test_division_by_zero_is_unknown() -> None:
    """Not an exception, and it does not fire."""
    assert not fires(evaluate(compile_condition("auc / rows > 0", KNOWN), {"auc": 1.0, "rows": 0.0}))
