"""How arrivals are put together into batches: small ones wait for one another, a large one is a batch of its own."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Limits:
    """When a batch is full; an arrival is never split."""

    rows: int = 5000
    bytes: int = 8 << 20
    arrivals: int = 2000
    """Their ids are listed in the fact, which has to stay small."""
    wait: timedelta = timedelta(milliseconds=500)
    predictions_wait: timedelta = timedelta(seconds=5)
    """Nothing decides by a landed prediction (monitoring hears each itself): a trickle of them is few batches."""


@dataclass(frozen=True)
class OpenBatch:
    """The batch of a dataset that still takes arrivals."""

    number: int = 1
    rows: int = 0
    bytes: int = 0
    arrivals: int = 0

    def next(self) -> "OpenBatch":
        return OpenBatch(self.number + 1)


@dataclass(frozen=True)
class Placed:
    """Where an arrival goes, which batches that closes, and the batch that is open afterwards."""

    number: int
    closed: tuple[int, ...]
    open: OpenBatch


def place(batch: OpenBatch, rows: int, size: int, limits: Limits) -> Placed:
    """Put one arrival into the open batch, or close that first when both together are too much.

    >>> place(OpenBatch(3, rows=4999, bytes=10, arrivals=1), rows=2, size=10, limits=Limits()).closed
    (3,)
    """
    closed: tuple[int, ...] = ()
    if batch.arrivals and (batch.rows + rows > limits.rows or batch.bytes + size > limits.bytes):
        closed, batch = (batch.number,), batch.next()
    filled = OpenBatch(batch.number, batch.rows + rows, batch.bytes + size, batch.arrivals + 1)
    if filled.rows >= limits.rows or filled.bytes >= limits.bytes or filled.arrivals >= limits.arrivals:
        return Placed(filled.number, (*closed, filled.number), filled.next())
    return Placed(filled.number, closed, filled)
