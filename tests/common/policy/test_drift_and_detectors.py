"""Drift statistics in constant memory, and ADWIN against river's."""

import numpy as np
import pyarrow as pa
import pytest
from river.drift import ADWIN

from ctloop.policy.detectors import Adwin
from ctloop.policy.drift import Counts, Episodes, Reference, psi


def table(seed: int, rows: int = 4000, shift: float = 0.0, words: str = "abc") -> pa.Table:
    generator = np.random.default_rng(seed)
    numbers = pa.array(generator.normal(shift, 1, rows), mask=generator.random(rows) < 0.1)
    return pa.table({"number": numbers, "word": generator.choice(list(words), rows)})


REFERENCE = Reference.of(table(0), ("number", "word"))


def score(current: pa.Table) -> dict[str, float]:
    return {one.name: one.score for one in Counts.empty(REFERENCE).add(current, REFERENCE).scores(REFERENCE)}


def test_the_same_population_is_calm() -> None:
    """Another draw of the same distribution is far below the level of drift."""
    assert max(score(table(1)).values()) < 0.02


def test_a_shift_is_seen_in_its_column_only() -> None:
    """Worst first."""
    found = score(table(2, shift=1.0))
    assert next(iter(found)) == "number" and found["number"] > 0.5 and found["word"] < 0.02


def test_new_categories_and_missing_values_are_counted() -> None:
    """A level the reference never had, and a column that is absent."""
    counts = Counts.empty(REFERENCE).add(table(3, words="abz").select(["word"]), REFERENCE)
    word = next(one for one in counts.scores(REFERENCE) if one.name == "word")
    number = next(one for one in counts.scores(REFERENCE) if one.name == "number")
    assert (
        word.new_categories > 1000
        and number.missing == 1.0
        and number.reference_missing == pytest.approx(0.1, abs=0.02)
    )


def test_counting_in_parts_is_counting_at_once_through_json() -> None:
    """Incremental, order-free, and the state is JSON of constant size."""
    whole = table(4)
    parts = Counts.empty(REFERENCE)
    for start in (2000, 0, 3000, 1000):
        held = Counts.from_json(parts.to_json())
        parts = held.add(whole.slice(start, 1000), Reference.from_json(REFERENCE.to_json()))
    assert parts.to_json() == Counts.empty(REFERENCE).add(whole, REFERENCE).to_json()
    assert len(parts.to_json()) < 1000


def test_psi_is_symmetric_and_zero_for_equals() -> None:
    """Siddiqi's index."""
    one, two = np.array([10.0, 20, 70]), np.array([30.0, 30, 40])
    assert psi(one, one) == 0 and psi(one, two) == pytest.approx(psi(two, one))


def test_an_episode_opens_once_and_ends_once() -> None:
    """Between the two levels nothing is said again."""
    drifted, calm, between = (
        Counts.empty(REFERENCE).add(one, REFERENCE).scores(REFERENCE)
        for one in (table(5, shift=1.0), table(6), table(7, shift=0.4))
    )
    state, said = Episodes(), []
    for scores in (calm, drifted, drifted, between, (), calm, calm):
        state, happened = Episodes.from_json(state.to_json()).tick(scores, "2013-02-04")
        said.append(happened)
    assert said == [None, "opened", None, None, None, "resolved", None]


@pytest.mark.parametrize("change", [0.4, -0.3, 0.15, 0.0])
def test_adwin_is_rivers(change: float) -> None:
    """The same width all along and the same detection, through JSON in the middle.

    river forgets everything after a detection; the paper, and we, keep the new part of the window.
    """
    generator = np.random.default_rng(8)
    stream = np.concatenate([generator.normal(mean, 0.3, 1500) for mean in (0.5, 0.5 + change)]).clip(0, 5)
    ours, theirs = Adwin(), ADWIN()
    number = 0
    for number, value in enumerate(stream.tolist()):
        theirs.update(value)
        assert ours.update([value]) == theirs.drift_detected, number
        if theirs.drift_detected:
            break
        assert ours.width == theirs.width, number
        if number == 700:
            ours = Adwin.from_json(ours.to_json())
    assert ours.detections == (change != 0)
    ours.update(stream[number + 1 :].tolist())
    assert ours.mean == pytest.approx(0.5 + change, abs=0.08)


def test_no_number_can_break_the_detector() -> None:
    """What is not finite is left out, what is huge is clipped."""
    detector = Adwin()
    detector.update([1.0, float("nan"), float("inf"), 1e300, -float("inf"), 2.0])
    assert detector.width == 3 and detector.mean == pytest.approx((1 + 10 + 2) / 3)
