"""The champion that is watched, and how far it has been judged."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ctloop.events.drift import DriftKind
from ctloop.events.values import Window


@dataclass(frozen=True)
class Champion:
    """One epoch of a model under watch."""

    model: str
    dataset: str
    version: int
    epoch: int
    pipeline_digest: str
    classes: tuple[str, ...]
    training_window: Window
    promoted_data_time: datetime
    first_end: datetime
    """End of the first window after the promotion."""
    next_end: datetime
    """End of the window that closes next, data time."""
    reference: str | None
    """Bins of the training window, JSON of ctloop.policy.drift; None: not built yet."""
    reference_failed: str | None
    """Why there will be no reference."""
    detector: str | None
    episodes: str | None

    @property
    def judges_inputs(self) -> bool:
        """Its inputs are or will be compared with a reference."""
        return self.reference_failed is None


@dataclass(frozen=True)
class Progress:
    """How far the facts of a model have come."""

    data_time: datetime | None
    """Of the dataset: greatest accepted record time or label observed_at."""
    served_until: datetime | None
    """Greatest data time of the predictions heard."""
    heard_at: datetime | None
    """Wall clock at which the last predictions were heard."""


@dataclass(frozen=True)
class OpenEpisode:
    """A drift that has not ended."""

    episode: UUID
    kind: DriftKind
