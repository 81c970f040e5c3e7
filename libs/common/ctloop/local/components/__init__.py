"""The five components, and the programs that some of them run."""

from collections.abc import Mapping

from ctloop.local.components.component import Component
from ctloop.local.components.kafka import Kafka
from ctloop.local.components.mlflow import Mlflow
from ctloop.local.components.postgres import Postgres
from ctloop.local.components.ray import Ray
from ctloop.local.components.s3 import S3

COMPONENTS: Mapping[str, type[Component]] = {kind.name: kind for kind in (Mlflow, Kafka, Postgres, S3, Ray)}
"""In the order they are started: MLflow's import takes longest."""
