"""ONNX Runtime: a session made of verified bytes only, and its answer to one batch."""

import hashlib
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ctloop import onnx_rows
from ctloop.events.values import Signature
from ctloop_serving.domain.request import Computed

TOLERANCE = 1e-4
"""Largest difference from the golden outputs, absolute and relative; wide enough for another CPU's rounding."""
FIRST_GUESS = 20e-6
"""Seconds per row before anything was measured."""
ONNX_TYPES = {"number": "tensor(float)", "boolean": "tensor(float)", "text": "tensor(string)", "time": "tensor(int64)"}


class ModelRefused(Exception):
    """These bytes are not what was promoted, or do not answer as they must; the message says why."""


class Session(Protocol):
    """What is used of an ONNX Runtime session."""

    def run(self, output_names: list[str] | None, input_feed: dict[str, Any]) -> Sequence[Any]: ...
    def get_inputs(self) -> Sequence[Any]: ...
    def get_outputs(self) -> Sequence[Any]: ...


class OnnxEngine:
    """One model version, ready to answer. Immutable but for its running estimate of its own speed."""

    def __init__(self, session: Session, signature: Signature, golden: dict[str, NDArray[Any]]) -> None:
        self._session = session
        self._outputs = list(onnx_rows.output_names(signature))
        self.golden = golden
        """One row the model has answered before; used when no real request comes."""
        self.seconds_per_row = FIRST_GUESS

    def run(self, feeds: dict[str, NDArray[Any]], rows: int) -> Computed:
        """Answer a batch; feeds are shaped [rows, 1]. Raises what ONNX Runtime raises."""
        started = time.perf_counter()
        found = self._session.run(self._outputs, feeds)
        self.seconds_per_row += 0.1 * ((time.perf_counter() - started) / rows - self.seconds_per_row)
        if len(found) == 1:
            return Computed(None, None, found[0])
        return Computed(found[0], found[1], None)


def verify(body: bytes, sha256: str, what: str) -> None:
    """Refuse bytes that are not the promoted ones.

    Raises:
        ModelRefused: another digest.
    """
    found = hashlib.sha256(body).hexdigest()
    if found != sha256:
        raise ModelRefused(f"{what}: sha256 is {found[:12]}…, promoted was {sha256[:12]}…")


def load(body: bytes, sha256: str, golden: bytes, signature: Signature) -> OnnxEngine:
    """Make a session of verified bytes and replay the golden inputs through it. Blocking; runs in a thread.

    Raises:
        ModelRefused: wrong bytes, not ONNX, other inputs or outputs than the signature says, other golden answers.
    """
    verify(body, sha256, "onnx")
    try:
        session: Session = onnx_rows.open_session(body, threads=1)
        _check_signature(session, signature)
        table, expected = onnx_rows.read_golden(golden)
        feeds = onnx_rows.inputs(table, signature)
        engine = OnnxEngine(session, signature, {name: array[:1] for name, array in feeds.items()})
        found = engine.run(feeds, table.num_rows)
    except ModelRefused:
        raise
    except Exception as error:  # ONNX Runtime and Arrow raise many kinds; all mean the same here
        raise ModelRefused(f"cannot be loaded: {error}"[:1000]) from error
    _compare(found, expected)
    return engine


def _check_signature(session: Session, signature: Signature) -> None:
    found = {one.name: one.type for one in session.get_inputs()}
    wanted = {one.name: ONNX_TYPES.get(one.kind, one.kind) for one in signature.inputs}
    if found != wanted:
        raise ModelRefused(f"inputs are {found}, the signature says {wanted}"[:1000])
    outputs = {one.name for one in session.get_outputs()}
    needed = set(onnx_rows.output_names(signature))
    if not needed <= outputs:
        raise ModelRefused(f"outputs are {sorted(outputs)}, needed: {sorted(needed)}")


def _compare(found: Computed, expected: Any) -> None:
    name = "value" if found.value is not None else "probabilities"
    ours, theirs = getattr(found, name), getattr(expected, name)
    if theirs is None or ours.size != np.asarray(theirs).size:
        raise ModelRefused("golden outputs have another shape")
    theirs = np.asarray(theirs, np.float64).reshape(ours.shape)
    if not np.isfinite(ours).all():
        raise ModelRefused(f"golden inputs give a {name} that is not finite")
    if not np.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
        raise ModelRefused(f"golden inputs give another {name}: off by {float(np.abs(ours - theirs).max()):.3g}")
