"""The fact that a model file was applied."""

from typing import ClassVar

from pydantic import Field

from ctloop.events.envelope import ModelEvent
from ctloop.events.manifest import Manifest


class PipelineReleased(ModelEvent):
    """A new pipeline version of a model is in force; every service keeps the manifest."""

    topic: ClassVar[str] = "pipeline-released.v1"
    pipeline_version: int = Field(description="Ours, from 1 per model.", ge=1)
    digest: str = Field(description="sha256 of the canonical manifest.")
    manifest: Manifest

    @property
    def discriminator(self) -> str:
        return self.digest
