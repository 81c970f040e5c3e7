"""What people ask monitoring: how good has a model been, and what has changed."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel

from ctloop.events.drift import DriftDetected, DriftResolved
from ctloop.events.model import PerformanceMeasured
from ctloop.events.values import FeatureScore
from ctloop.platform.delivery import Edge
from ctloop.platform.http import ProblemResponse
from ctloop_monitoring.store_reader import WatchReader

Limit = Annotated[int, Query(ge=1, le=1000)]


class WatchState(BaseModel):
    """How the watch over a model stands."""

    version: int
    epoch: int
    next_end: AwareDatetime
    data_time: AwareDatetime | None
    served_until: AwareDatetime | None
    unjoinable: int
    reference: bool
    reference_failed: str | None


class Performance(BaseModel):
    """Windows of a model, newest first."""

    model: str
    watch: WatchState
    items: list[PerformanceMeasured]


class WindowScores(BaseModel):
    """How far each feature was from the reference in one window."""

    version: int
    epoch: int
    end: AwareDatetime
    rows: int
    prediction: float | None
    features: list[FeatureScore]


class Episode(BaseModel):
    """A drift, and its end if it has ended."""

    detected: DriftDetected
    resolved: DriftResolved | None


class Drift(BaseModel):
    """Scores per window and episodes of a model, newest first."""

    model: str
    watch: WatchState
    items: list[WindowScores]
    episodes: list[Episode]


def create_api(reader: WatchReader) -> Callable[[Edge], APIRouter]:
    """Monitoring's paths."""

    def routes(edge: Edge) -> APIRouter:
        router = APIRouter()

        async def state(connection: Any, model: str) -> WatchState:
            found = await reader.state(connection, model)
            if found is None:
                raise ProblemResponse(404, "CT9002", f"no champion of {model!r} is watched")
            return WatchState.model_validate(found)

        @router.get("/v1/models/{model}/performance")
        async def performance(model: str, limit: Limit = 100) -> Performance:
            """Measured windows with intervals and coverage."""
            async with edge.reading() as connection:
                items = await reader.performance(connection, model, limit)
                return Performance(model=model, watch=await state(connection, model), items=items)

        @router.get("/v1/models/{model}/drift")
        async def drift(model: str, limit: Limit = 100) -> Drift:
            """Feature scores per window, and episodes."""
            async with edge.reading() as connection:
                watch = await state(connection, model)
                scores = await reader.scores(connection, model, limit)
                episodes = await reader.episodes(connection, model, limit)
            return Drift(
                model=model,
                watch=watch,
                items=[WindowScores.model_validate_json(one) for one in scores],
                episodes=[
                    Episode(
                        detected=DriftDetected.model_validate_json(detected),
                        resolved=DriftResolved.model_validate_json(resolved) if resolved else None,
                    )
                    for detected, resolved in episodes
                ],
            )

        _ = performance, drift
        return router

    return routes
