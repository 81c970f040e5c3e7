"""The watch over a champion: what happens when predictions are binned, and when a window of data time closes."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pyarrow as pa
from prometheus_client import Gauge

from ctloop.events.drift import DriftResolved
from ctloop.events.envelope import Event
from ctloop.events.manifest import Manifest
from ctloop.events.model import ModelRolledBack, PerformanceMeasured, Promotion
from ctloop.events.values import Window
from ctloop.platform.delivery import UnitOfWork
from ctloop.platform.pipelines import manifest_by_digest
from ctloop_monitoring.domain import bins, judge
from ctloop_monitoring.domain.champion import Champion, Progress
from ctloop_monitoring.domain.columns import inputs
from ctloop_monitoring.store import MonitoringStore
from ctloop_monitoring.store_forget import forget, forget_measured

DRIFT_SCORE = Gauge(
    "ctloop_drift_score",
    "Of the last closed window, by input; the output is `prediction`.",
    ["model", "feature", "test"],
)
MOST_WINDOWS = 100
"""Windows that are said when data time jumps; those before are passed over."""
KEPT_WINDOWS = 200
"""Windows for which predictions and labels are kept."""
KEPT_MEASURED = 5_000
"""Windows whose measurement and scores are kept for people."""


class Watching:
    """Reads, asks the brain, saves, returns facts; inside the unit of work it is given."""

    def __init__(self, store: MonitoringStore) -> None:
        self.store = store

    async def begin(self, promotion: Promotion, work: UnitOfWork) -> bool:
        """Watch a new epoch; False when a later one is watched. One that came back is watched from now on."""
        await manifest_by_digest(work.connection, promotion.pipeline_digest)
        step, since = judge.step(promotion.training_window), promotion.data_time
        if isinstance(promotion, ModelRolledBack):
            since = max(since, await self.store.data_time(work.connection, promotion.dataset) or since)
        first_end = judge.end_after(since, step)
        return await self.store.watch(work.connection, promotion, first_end, first_end - KEPT_WINDOWS * step)

    async def replaced(self, before: Champion, by: Promotion, work: UnitOfWork) -> tuple[Event, ...]:
        """The open episodes of a version that no longer answers are over."""
        said = tuple(
            DriftResolved(
                model=before.model,
                episode=one.episode,
                kind=one.kind,
                version=before.version,
                at=by.data_time,
                why="replaced",
            )
            for one in await self.store.open_episodes(work.connection, before.model)
        )
        await self.store.keep_drift(work.connection, before.epoch, said)
        return said

    async def bin(self, champion: Champion, table: pa.Table, work: UnitOfWork) -> None:
        """Count the champion's predictions into the bins of their windows of data time."""
        assert champion.reference is not None
        mine = inputs(table.filter(pa.array(table.column("epoch").to_numpy() == champion.epoch)))
        if not mine.num_rows:
            return
        step = judge.step(champion.training_window)
        parts = bins.by_window(mine, champion.first_end, step)
        held = await self.store.bins(work.connection, champion, parts)
        counted = {end: bins.count(champion.reference, held.get(end), part) for end, part in parts.items()}
        await self.store.keep_bins(work.connection, champion, counted)

    async def measure_again(
        self, champion: Champion, record_ids: Sequence[str], work: UnitOfWork
    ) -> tuple[PerformanceMeasured, ...]:
        """Measure closed windows again in which labels came late or were corrected."""
        step = judge.step(champion.training_window)
        ends = await self.store.measured_windows_of(work.connection, champion, record_ids, step)
        if not ends:
            return ()
        manifest = await manifest_by_digest(work.connection, champion.pipeline_digest)
        progress = await self.store.progress(work.connection, champion)
        said: list[PerformanceMeasured] = []
        for end in ends:
            said += await self._measure_now(champion, manifest, Window(start=end - step, end=end), progress, work)
        return tuple(said)

    async def close(
        self, champion: Champion, work: UnitOfWork, *, idle: bool
    ) -> tuple[tuple[Event, ...], Champion | None]:
        """Close every window that is over; the champion comes back when the next one waits for predictions only."""
        progress = await self.store.progress(work.connection, champion)
        said: list[Event] = []
        step = judge.step(champion.training_window)
        if progress.data_time is not None:
            champion = replace(champion, next_end=_after_jump(champion.next_end, progress.data_time, step))
        while progress.data_time is not None and progress.data_time >= champion.next_end:
            if champion.judges_inputs and champion.reference is None:
                break
            if not judge.closes(champion.next_end, progress.data_time, progress.served_until, idle=idle):
                return tuple(said), champion
            events, champion = await self._close_one(champion, step, progress, work)
            said += events
        return tuple(said), None

    async def _close_one(
        self, champion: Champion, step: timedelta, progress: Progress, work: UnitOfWork
    ) -> tuple[list[Event], Champion]:
        end = champion.next_end
        window = Window(start=end - step, end=end)
        manifest = await manifest_by_digest(work.connection, champion.pipeline_digest)
        rows = await self.store.judged(work.connection, champion, window.start, end, end)
        made = await self._made(champion, window, work)
        measured = judge.measure(champion, manifest, rows, made, window, end)
        await self.store.keep_measured(work.connection, measured)
        held = await self.store.bins(work.connection, champion, [end])
        seen = judge.look(champion, manifest, rows, made, held.get(end), window)
        await self.store.keep_scores(work.connection, champion, end, seen.scores)
        _show(champion.model, judge.Scores.model_validate_json(seen.scores))
        await self.store.keep_drift(work.connection, champion.epoch, seen.said)
        moved = replace(champion, next_end=end + step, detector=seen.detector, episodes=seen.episodes)
        await self.store.move_on(
            work.connection, champion, moved.next_end, detector=moved.detector, episodes=moved.episodes
        )
        await forget(work.connection, champion, end - KEPT_WINDOWS * step)
        await forget_measured(work.connection, champion, end - KEPT_MEASURED * step)
        said: list[Event] = [*seen.said, measured]
        if await self.store.corrected_since(work.connection, champion, window.start, end):
            said += await self._measure_now(champion, manifest, window, progress, work)
        return said, moved

    async def _measure_now(
        self, champion: Champion, manifest: Manifest, window: Window, progress: Progress, work: UnitOfWork
    ) -> list[PerformanceMeasured]:
        """A closed window by the labels as they are now; nothing when they say the same."""
        rows = await self.store.judged(work.connection, champion, window.start, window.end, None)
        made = await self._made(champion, window, work)
        measured = judge.measure(
            champion, manifest, rows, made, window, max(window.end, progress.data_time or window.end)
        )
        return [measured] if await self.store.keep_measured(work.connection, measured) else []

    async def _made(self, champion: Champion, window: Window, work: UnitOfWork) -> judge.Made:
        return await self.store.outputs_in(work.connection, champion, window.start, window.end)


def _show(model: str, scores: judge.Scores) -> None:
    for one in scores.features:
        DRIFT_SCORE.labels(model, one.name, "psi").set(one.score)
    if scores.prediction is not None:
        DRIFT_SCORE.labels(model, "prediction", "psi").set(scores.prediction)


def _after_jump(next_end: datetime, data_time: datetime, step: timedelta) -> datetime:
    """The window to go on with when data time went far ahead: the last MOST_WINDOWS are said."""
    over = (data_time - next_end) // step + 1
    return next_end + max(0, over - MOST_WINDOWS) * step
