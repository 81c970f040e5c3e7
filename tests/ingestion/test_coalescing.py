"""Which arrivals go into one batch."""

import pytest

from ctloop_ingestion.domain.coalescing import Limits, OpenBatch, place

LIMITS = Limits(rows=100, bytes=1000, arrivals=3)


def placed(sizes: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Numbers of the batches arrivals go to, and the batches closed."""
    batch, numbers, closed = OpenBatch(), [], []
    for rows, size in sizes:
        found = place(batch, rows, size, LIMITS)
        batch = found.open
        numbers.append(found.number)
        closed += found.closed
    return numbers, closed


@pytest.mark.parametrize(
    ("sizes", "numbers", "closed"),
    [
        ([(10, 10), (10, 10)], [1, 1], []),
        ([(50, 10), (50, 10), (1, 1)], [1, 1, 2], [1]),
        ([(90, 10), (20, 10)], [1, 2], [1]),
        ([(10, 900), (10, 200)], [1, 2], [1]),
        ([(500, 10)], [1], [1]),
        ([(5, 10), (500, 10), (5, 10)], [1, 2, 3], [1, 2]),
        ([(1, 1)] * 4, [1, 1, 1, 2], [1]),
        ([(0, 0)], [1], []),
    ],
)
def test_arrivals_are_put_together_up_to_the_limits(
    sizes: list[tuple[int, int]], numbers: list[int], closed: list[int]
) -> None:
    """Small arrivals share a batch; a large one is a batch of its own and is never split."""
    assert placed(sizes) == (numbers, closed)
