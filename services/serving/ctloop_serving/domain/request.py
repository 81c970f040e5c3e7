"""A decoded request and a computed answer, whatever the protocol."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Decoded:
    """The rows of one request as ONNX takes them."""

    feeds: dict[str, NDArray[Any]]
    """One array per input, shape [rows, 1]."""
    rows: int
    record_ids: list[str | None]
    times: list[int | None]
    """Event time per row, microseconds since the epoch; None: the request brought none."""


@dataclass(slots=True)
class Computed:
    """What the model says of some rows: class index and probabilities, or a value."""

    label: NDArray[np.int64] | None
    probabilities: NDArray[np.float32] | None
    value: NDArray[np.float32] | None

    def part(self, start: int, end: int) -> "Computed":
        """The rows from start to end."""
        return Computed(
            None if self.label is None else self.label[start:end],
            None if self.probabilities is None else self.probabilities[start:end],
            None if self.value is None else self.value[start:end],
        )


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which version answers; it is in every answer."""

    model: str
    version: int
    digest: str
    epoch: int
