"""Failures with a name: the name decides the fate of what failed (docs/architecture/delivery.md)."""

from typing import ClassVar, Literal

Reason = Literal[
    "undecodable",
    "unsupported-format",
    "unsupported-version",
    "too-large",
    "object-missing",
    "object-mismatch",
    "truncated",
    "schema-mismatch",
    "unknown-model",
    "unknown-dataset",
    "rejected",
    "exhausted",
    "unexpected",
]
"""Why a record was quarantined or became a dead letter. Public API."""


class CtloopError(Exception):
    """Whatever ctloop raises on purpose."""


class UndecodableEvent(CtloopError):
    """Not our contract: quarantined at once."""

    reason: Reason = "undecodable"


class RejectedEvent(CtloopError):
    """Well-formed, can never succeed: quarantined at once. The message says what to do."""

    reason: Reason = "rejected"


class UnsupportedFormat(RejectedEvent):
    """A content type or object format we do not read."""

    reason: Reason = "unsupported-format"


class TooLarge(RejectedEvent):
    """More bytes or rows than one arrival may bring."""

    reason: Reason = "too-large"


class ObjectMissing(RejectedEvent):
    """The object a reference names is not there."""

    reason: Reason = "object-missing"


class ObjectMismatch(RejectedEvent):
    """The object's bytes are not those the reference names (sha256 or size)."""

    reason: Reason = "object-mismatch"


class Truncated(RejectedEvent):
    """An Arrow or Parquet body that ends early."""

    reason: Reason = "truncated"


class SchemaMismatch(RejectedEvent):
    """Columns that cannot be the dataset's at all."""

    reason: Reason = "schema-mismatch"


class TransientError(CtloopError):
    """Infrastructure that may work in a moment: tried again, then the key is parked."""


class NotYetKnown(TransientError):
    """A model or dataset nobody has declared here yet: parked for up to 30 s, then quarantined."""

    reason: ClassVar[Reason] = "rejected"


class ModelNotYetKnown(NotYetKnown):
    """A fact came before the model's PipelineReleased."""

    reason: ClassVar[Reason] = "unknown-model"


class DatasetNotYetKnown(NotYetKnown):
    """A record came for a dataset no model file declares."""

    reason: ClassVar[Reason] = "unknown-dataset"
