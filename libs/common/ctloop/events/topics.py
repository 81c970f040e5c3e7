"""Every fact, its topic, who says it and who hears it: the only table of the topology."""

from dataclasses import dataclass

from ctloop.events.data import DataArrived, DataLanded, DataValidated, PredictionsServed
from ctloop.events.drift import DriftDetected, DriftResolved
from ctloop.events.envelope import Event
from ctloop.events.model import (
    DeploymentFailed,
    ModelDeployed,
    ModelPromoted,
    ModelRolledBack,
    ModelValidated,
    PerformanceMeasured,
)
from ctloop.events.pipeline import PipelineReleased
from ctloop.events.training import ModelTrained, RetrainDecided, TrainingFailed, TrainingStarted

SERVICES = ("ingestion", "validation", "training", "registry", "serving", "monitoring", "console")
"""In the order they are started."""
PARTITIONS = 4
"""Of every topic, for ever: growth is a new version of the topic."""


@dataclass(frozen=True)
class Fact:
    """A fact's place in the topology."""

    event: type[Event]
    said_by: str
    heard_by: tuple[str, ...]
    columns: bool = False
    """True: the Kafka value is the data itself (data plane)."""

    @property
    def retention_days(self) -> int:
        """How long the topic keeps it."""
        return 1 if self.columns else 7


EVERYBODY = tuple(name for name in SERVICES)

FACTS = (
    Fact(DataArrived, "ingestion", ("ingestion",), columns=True),  # and producers outside
    Fact(PredictionsServed, "serving", ("ingestion", "monitoring"), columns=True),
    Fact(DataLanded, "ingestion", ("validation", "console")),
    Fact(DataValidated, "validation", ("training", "monitoring", "console")),
    Fact(PipelineReleased, "registry", EVERYBODY),
    Fact(RetrainDecided, "training", ("console",)),
    Fact(TrainingStarted, "training", ("console",)),
    Fact(ModelTrained, "training", ("validation", "console")),
    Fact(TrainingFailed, "training", ("console",)),
    Fact(ModelValidated, "validation", ("training", "registry", "console")),
    Fact(ModelPromoted, "registry", ("validation", "training", "serving", "monitoring", "console")),
    Fact(ModelRolledBack, "registry", ("validation", "training", "serving", "monitoring", "console")),
    Fact(ModelDeployed, "serving", ("registry", "monitoring", "console")),
    Fact(DeploymentFailed, "serving", ("registry", "console")),
    Fact(PerformanceMeasured, "monitoring", ("training", "registry", "console")),
    Fact(DriftDetected, "monitoring", ("training", "console")),
    Fact(DriftResolved, "monitoring", ("training", "console")),
)

BY_EVENT = {fact.event: fact for fact in FACTS}
BY_TOPIC = {fact.event.topic: fact for fact in FACTS}


def dead_letters(service: str) -> str:
    """The topic of a service's dead letters."""
    return f"{service}.dead-letters"
