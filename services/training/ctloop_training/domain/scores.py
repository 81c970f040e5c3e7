"""What predictions on the search rows are worth, and how far the inference form is from the estimator."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctloop.events.manifest import Manifest
from ctloop.events.values import Measured, Parity
from ctloop.policy.losses import measure

Matrix = NDArray[np.float64]
Truth = NDArray[np.int64] | NDArray[np.float64]

TOLERANCE = 1e-3
"""Of probabilities, and of values relative to their spread: float32 arithmetic stays three orders below."""
FLIPPED_SHARE = 0.01
"""Exact ties may fall either way in float32 (6 of 1,000 rows of a random forest were seen)."""
OFF_SHARE = 0.02
"""Of rows beyond the tolerance: trees behind a scaler and nearest neighbours had up to 1 %, wrong converters 20 % and more."""


def scores(manifest: Manifest, outputs: Matrix, truth: Truth, classes: Sequence[str]) -> tuple[Measured, ...]:
    """The deciding metric first, then those that are shown; from the library gates and monitoring use too."""
    return measure((manifest.metric, *manifest.report), outputs, truth, len(classes))


def parity_of(estimator: Matrix, onnx: Matrix) -> Parity:
    """Largest difference of outputs, and rows whose decision differs; both are [N, classes] or [N, 1]."""
    decisions = estimator.shape[1] > 1
    return Parity(
        rows=len(estimator),
        largest_difference=float(np.abs(estimator - onnx).max(initial=0.0)),
        flipped=int((estimator.argmax(axis=1) != onnx.argmax(axis=1)).sum()) if decisions else 0,
    )


def parity_problem(parity: Parity, estimator: Matrix, onnx: Matrix, classes: Sequence[str]) -> str | None:
    """Why the inference form must not be used in the estimator's place; None: it may.

    A converter that is wrong is wrong about many rows. A value that lies exactly on a tree's threshold, or two neighbours
    at one distance, are few, and what is served is judged by the gates as it is.

    >>> other = np.linspace(0, 0.58, 2000).reshape(1000, 2)
    >>> found = Parity(rows=1000, largest_difference=0.58, flipped=122)
    >>> parity_problem(found, np.zeros((1000, 2)), other, ("no", "yes"))
    'the ONNX form differs from the estimator by up to 0.58 (998 of 1000 rows); 122 of 1000 decisions flipped'
    """
    scale = 1.0 if classes else max(float(np.ptp(estimator)) if len(estimator) else 0.0, 1e-9)
    off = int((np.abs(estimator - onnx).max(axis=1) > TOLERANCE * scale).sum())
    if off <= max(1.0, OFF_SHARE * parity.rows) and parity.flipped <= max(1.0, FLIPPED_SHARE * parity.rows):
        return None
    return (
        f"the ONNX form differs from the estimator by up to {parity.largest_difference:.3g} ({off} of {parity.rows} rows); "
        f"{parity.flipped} of {parity.rows} decisions flipped"
    )
