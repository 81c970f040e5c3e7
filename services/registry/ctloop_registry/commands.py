"""What people ask of the registry; each is one transaction through a handler."""

from pydantic import Field

from ctloop.events.manifest import Manifest
from ctloop.platform.delivery import Command


class ApplyPipeline(Command):
    """Release a manifest as the model's next pipeline version."""

    manifest: Manifest
    if_match: str | None = Field(default=None, description="Digest that must be in force; None: any.")


class PromoteVersion(Command):
    """Make a version champion by hand."""

    model: str
    version: int
    reason: str = ""
    force: bool = False
    if_epoch: int | None = None


class RollBack(Command):
    """Move the pointer back to an earlier champion."""

    model: str
    to: int | None = Field(default=None, description="An earlier champion; None: the one before.")
    reason: str
    if_epoch: int | None = None
