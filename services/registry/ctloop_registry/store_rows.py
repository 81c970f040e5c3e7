"""What the registry's tables hold, as frozen values."""

from uuid import UUID

from pydantic import AwareDatetime

from ctloop.events.envelope import Value
from ctloop.events.model import ModelPromoted, ModelRolledBack, ModelValidated
from ctloop_registry.domain.pointer import Move, Outcome


class Release(Value):
    """A pipeline version of a model."""

    model: str
    pipeline_version: int
    digest: str
    dataset: str
    released_at: AwareDatetime


class Evidence(Value):
    """One judgement of a version."""

    id: UUID
    model: str
    version: int
    outcome: Outcome
    said: ModelValidated
    recorded_at: AwareDatetime
    loop_id: UUID | None = None


class Moved(Value):
    """One epoch of a model."""

    model: str
    epoch: int
    version: int
    previous_version: int | None
    move: Move
    moved_by: str
    reason: str
    evidence: UUID
    event_id: UUID
    loop_id: UUID | None
    since: AwareDatetime


class Deployment(Value):
    """What a replica said about an epoch."""

    model: str
    epoch: int
    replica: str
    version: int
    first_answer_at: AwareDatetime | None
    load_seconds: float | None
    golden: bool | None
    failed_at: AwareDatetime | None
    failure: str | None


class PointerMove(Value):
    """A move of the pointer to be written: the fact that is said and what it rests on."""

    fact: ModelPromoted | ModelRolledBack
    evidence: UUID
    moved_by: str
    reason: str = ""
    event_id: UUID
    loop_id: UUID | None
    traceparent: str | None
    since: AwareDatetime

    @property
    def move(self) -> Move:
        return Move.PROMOTED if isinstance(self.fact, ModelPromoted) else Move.ROLLED_BACK
