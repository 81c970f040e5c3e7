"""Facts about drift: an episode opens once, carries its evidence, and closes once."""

from typing import ClassVar, Literal
from uuid import UUID

from pydantic import Field

from ctloop.events.envelope import Instant, ModelEvent
from ctloop.events.values import FeatureScore, Window

DriftKind = Literal["data", "prediction", "concept", "performance"]


class DriftDetected(ModelEvent):
    """The world differs from the one the deployed version was trained in."""

    topic: ClassVar[str] = "drift-detected.v1"
    continues_loop: ClassVar[bool] = False
    episode: UUID
    kind: DriftKind
    version: int = Field(description="The version whose reference was compared.", ge=1)
    since: Instant = Field(description="Data time since when.")
    features: tuple[FeatureScore, ...] = Field(default=(), description="Worst first.")
    score: float = Field(description="The greatest score, or the detector's distance.")
    current: Window
    reference: Window
    data_time: Instant

    @property
    def discriminator(self) -> str:
        return str(self.episode)


class DriftResolved(ModelEvent):
    """The episode is over."""

    topic: ClassVar[str] = "drift-resolved.v1"
    continues_loop: ClassVar[bool] = False
    episode: UUID
    kind: DriftKind
    version: int = Field(ge=1)
    at: Instant = Field(description="Data time at which it ended.")
    why: Literal["returned", "replaced"] = Field(description="The world came back, or a new version is deployed.")

    @property
    def discriminator(self) -> str:
        return str(self.episode)
