"""What people ask of training; each is one transaction through a handler."""

from uuid import UUID

from pydantic import Field

from ctloop.platform.delivery import Command


class RetrainNow(Command):
    """Train a model now, on what is there."""

    model: str
    reason: str = Field(default="asked by a person", max_length=500)


class ApproveDecision(Command):
    """Act on a decision that autonomy ``propose`` or ``watch`` held back."""

    decision_id: UUID
