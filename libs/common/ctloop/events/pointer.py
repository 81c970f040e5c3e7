"""What the registry answers when it is asked who is champion: read by serving, by people, by tests."""

from uuid import UUID

from pydantic import Field

from ctloop.events.envelope import Instant
from ctloop.events.model import Promotion


class ChampionPointer(Promotion):
    """The champion pointer of a model: the promotion in force, and where it came from."""

    event_id: UUID = Field(description="Id of the ModelPromoted or ModelRolledBack that moved the pointer here.")
    loop_id: UUID | None = Field(default=None, description="The decision that led to it; None: a person.")
    traceparent: str | None = Field(default=None, description="Trace of what moved the pointer, to be gone on with.")
    since: Instant = Field(description="Wall clock of the move.")
