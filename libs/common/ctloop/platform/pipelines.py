"""The local projection of PipelineReleased: which models and datasets are known here, and their manifests."""

from typing import Any

from ctloop.events.envelope import Event
from ctloop.events.errors import DatasetNotYetKnown, ModelNotYetKnown
from ctloop.events.manifest import Manifest
from ctloop.events.pipeline import PipelineReleased
from ctloop.platform.delivery import UnitOfWork

PREDICTIONS = ".predictions"

SCHEMA = """
CREATE TABLE IF NOT EXISTS pipeline (
  model text PRIMARY KEY, dataset text NOT NULL, pipeline_version integer NOT NULL,
  digest text NOT NULL, manifest text NOT NULL
);
CREATE INDEX IF NOT EXISTS pipeline_dataset ON pipeline (dataset);
CREATE TABLE IF NOT EXISTS pipeline_manifest (digest text PRIMARY KEY, model text NOT NULL, manifest text NOT NULL);
"""


class PipelineHandlers:
    """What every service does when a model file is applied: keep the manifest."""

    async def on_pipeline_released(self, event: PipelineReleased, work: UnitOfWork) -> tuple[Event, ...]:
        """Keep the newest manifest of a model, and every manifest by digest."""
        manifest = event.manifest.model_dump_json()
        await work.connection.execute(
            """INSERT INTO pipeline_manifest (digest, model, manifest) VALUES ($1, $2, $3)
               ON CONFLICT (digest) DO NOTHING""",
            event.digest, event.model, manifest,
        )  # fmt: skip
        await work.connection.execute(
            """INSERT INTO pipeline (model, dataset, pipeline_version, digest, manifest) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (model) DO UPDATE SET dataset = excluded.dataset, digest = excluded.digest,
                 pipeline_version = excluded.pipeline_version, manifest = excluded.manifest
               WHERE pipeline.pipeline_version < excluded.pipeline_version""",
            event.model, event.manifest.record.dataset, event.pipeline_version, event.digest, manifest,
        )  # fmt: skip
        return ()


async def manifest_of(connection: Any, model: str) -> Manifest:
    """The newest manifest of a model.

    Raises:
        ModelNotYetKnown: no PipelineReleased of it has come here yet.
    """
    found = await connection.fetchval("SELECT manifest FROM pipeline WHERE model = $1", model)
    if found is None:
        raise ModelNotYetKnown(f"model {model!r} is not known here: apply its file first (ctloop apply)")
    return Manifest.model_validate_json(found)


async def manifest_by_digest(connection: Any, digest: str) -> Manifest:
    """A manifest by its digest.

    Raises:
        ModelNotYetKnown: the PipelineReleased that brings it has not come yet.
    """
    found = await connection.fetchval("SELECT manifest FROM pipeline_manifest WHERE digest = $1", digest)
    if found is None:
        raise ModelNotYetKnown(f"pipeline {digest[:12]} is not known here yet")
    return Manifest.model_validate_json(found)


async def manifests_over(connection: Any, dataset: str) -> tuple[Manifest, ...]:
    """The manifests of all models that learn from a dataset, by name.

    Raises:
        DatasetNotYetKnown: no model file declares it.
    """
    rows = await connection.fetch("SELECT manifest FROM pipeline WHERE dataset = $1 ORDER BY model", dataset)
    if not rows:
        raise DatasetNotYetKnown(f"dataset {dataset!r} is not declared by any applied model file")
    return tuple(Manifest.model_validate_json(row["manifest"]) for row in rows)


async def dataset_known(connection: Any, dataset: str) -> bool:
    """Whether records of this dataset may land: a model declares it, or it holds a known model's predictions."""
    if dataset.endswith(PREDICTIONS):
        query, name = "SELECT 1 FROM pipeline WHERE model = $1", dataset.removesuffix(PREDICTIONS)
    else:
        query, name = "SELECT 1 FROM pipeline WHERE dataset = $1 LIMIT 1", dataset
    return await connection.fetchval(query, name) is not None


async def pipeline_row(connection: Any, model: str) -> dict[str, Any] | None:
    """What this service knows of a model: dataset, pipeline version, digest; None when nothing."""
    row = await connection.fetchrow(
        "SELECT model, dataset, pipeline_version, digest FROM pipeline WHERE model = $1", model
    )
    return dict(row) if row else None
