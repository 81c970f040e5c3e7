"""The versions held in memory: per model the one that answers, and the one before it for a quick way back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from ctloop.events.manifest import Manifest
from ctloop.events.pointer import ChampionPointer
from ctloop_serving.domain.request import Stamp
from ctloop_serving.domain.schema import RequestSchema
from ctloop_serving.onnx_engine import OnnxEngine


@dataclass(eq=False)
class Deployment:
    """One version under one epoch."""

    pointer: ChampionPointer
    manifest: Manifest
    engine: OnnxEngine
    schema: RequestSchema
    load_seconds: float
    stamp: Stamp = field(init=False)
    first_answer_at: datetime | None = None
    """Wall clock of the first real answer."""
    on_first_answer: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        point = self.pointer
        self.stamp = Stamp(point.model, point.version, point.digest, point.epoch)


class Deployments:
    """What answers. A swap is one assignment: a request works with the deployment it found, to its end."""

    def __init__(self) -> None:
        self.current: dict[str, Deployment] = {}
        self.previous: dict[str, Deployment] = {}
        self.loading: set[str] = set()
        """Models with a champion that is not loaded yet."""
        self.registry_seen = False
        """True once the registry has said which models there are."""

    def swap(self, deployment: Deployment) -> bool:
        """Let a deployment answer from now on; False when a later epoch already does."""
        model = deployment.pointer.model
        held = self.current.get(model)
        if held is not None and held.pointer.epoch >= deployment.pointer.epoch:
            return False
        if held is not None:
            self.previous[model] = held
        self.current[model] = deployment
        self.loading.discard(model)
        return True

    def epoch(self, model: str) -> int:
        """Epoch that answers; 0: none."""
        held = self.current.get(model)
        return held.pointer.epoch if held else 0

    def engine_of(self, model: str, digest: str) -> OnnxEngine | None:
        """The engine of these bytes, if the model has it loaded: a rollback needs no load."""
        for held in (self.current.get(model), self.previous.get(model)):
            if held is not None and held.pointer.digest == digest:
                return held.engine
        return None

    @property
    def models(self) -> tuple[str, ...]:
        """Names of what is served, sorted."""
        return tuple(sorted(self.current))

    @property
    def ready(self) -> bool:
        """Holds a verified model, or knows that there is none to hold."""
        return bool(self.current) or (self.registry_seen and not self.loading)
