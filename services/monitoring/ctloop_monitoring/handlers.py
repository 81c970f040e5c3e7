"""What monitoring does with each fact it hears."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

from ctloop.events.data import DataValidated, PredictionsServed
from ctloop.events.drift import DriftDetected, DriftResolved
from ctloop.events.envelope import Event
from ctloop.events.model import ModelDeployed, ModelPromoted, ModelRolledBack, PerformanceMeasured, Promotion
from ctloop.platform.delivery import Heard, UnitOfWork, on
from ctloop.platform.jobs import JobFailed
from ctloop.platform.pipelines import PREDICTIONS, manifest_of, manifests_over
from ctloop_monitoring.domain.champion import Champion
from ctloop_monitoring.domain.columns import prediction_columns, predictions, read_stream
from ctloop_monitoring.watching import Watching
from ctloop_monitoring.work import BuildReference, LabelsRead, LookAgain, ReadLabels, ReferenceBuilt

IDLE = timedelta(seconds=2)
"""Wall clock without a prediction after which a window is closed without waiting for more."""


class MonitoringHandlers:
    """Keeps predictions and labels, closes windows of data time as facts come, and says what they show."""

    def __init__(self, watching: Watching) -> None:
        self.watching = watching
        self.store = watching.store

    async def on_predictions_served(self, heard: Sequence[Heard], work: UnitOfWork) -> tuple[tuple[Event, ...], ...]:
        """Keep predictions, bin their inputs; close what waited for them."""
        by_model: dict[str, list[int]] = defaultdict(list)
        for place, one in enumerate(heard):
            event: PredictionsServed = one.event
            by_model[event.model].append(place)
        said: list[tuple[Event, ...]] = [() for _ in heard]
        for model in sorted(by_model):
            await manifest_of(work.connection, model)
            champion = await self.store.champion(work.connection, model)
            ids: list[str] = []
            for place in by_model[model]:
                ids += await self._keep_predictions(champion, heard[place].event, work)
            if champion is not None:
                again = await self.watching.measure_again(champion, ids, work)
                said[by_model[model][-1]] = (*again, *await self._close(champion, work, idle=False))
        return tuple(said)

    async def on_data_validated(self, event: DataValidated, work: UnitOfWork) -> tuple[Event, ...]:
        """Queue the reading of a batch's labels; data time moves on when they are read."""
        if event.dataset.endswith(PREDICTIONS):
            return ()
        await manifests_over(work.connection, event.dataset)
        await work.jobs.add(
            ReadLabels(dataset=event.dataset, number=event.number, labels=event.labels, data_time=event.data_time)
        )
        return ()

    async def on_labels_read(self, done: LabelsRead, work: UnitOfWork) -> tuple[Event, ...]:
        """Fold labels in, late, early, twice or corrected; measure again what they change, close what is over."""
        models = await self.store.models_over(work.connection, done.dataset)
        champions = [one for model in models if (one := await self.store.champion(work.connection, model))]
        if done.labels is not None and done.labels.record_ids:
            await self.store.add_labels(work.connection, done.dataset, done.labels)
        if done.data_time is not None:
            await self.store.advance(work.connection, done.dataset, done.data_time)
        said: list[Event] = []
        for champion in champions:
            if done.labels is not None:
                said += await self.watching.measure_again(champion, done.labels.record_ids, work)
            said += await self._close(champion, work, idle=False)
        return tuple(said)

    async def on_labels_unreadable(self, failed: JobFailed[ReadLabels], work: UnitOfWork) -> tuple[Event, ...]:
        """Go on without labels that cannot be read: data time must not stand still."""
        job = failed.job
        return await self.on_labels_read(LabelsRead(dataset=job.dataset, labels=None, data_time=job.data_time), work)

    async def on_champion_moved(self, event: Promotion, work: UnitOfWork) -> tuple[Event, ...]:
        """Watch the new epoch: new windows, new reference; episodes of the version before are over."""
        before = await self.store.champion(work.connection, event.model)
        if not await self.watching.begin(event, work):
            return ()
        await work.jobs.add(
            BuildReference(
                model=event.model,
                epoch=event.epoch,
                pipeline_digest=event.pipeline_digest,
                dataset=event.dataset,
                dataset_version=event.dataset_version,
                window=event.training_window,
                columns=tuple(one.name for one in event.signature.inputs if one.kind != "time"),
            )
        )
        return await self.watching.replaced(before, event, work) if before is not None else ()

    async def on_reference_built(self, done: ReferenceBuilt, work: UnitOfWork) -> tuple[Event, ...]:
        """Bin what has come meanwhile; close what waited for the reference."""
        champion = await self.store.champion(work.connection, done.model)
        if champion is None or champion.epoch != done.epoch:
            return ()
        await self.store.keep_reference(work.connection, done.model, done.epoch, done.reference)
        champion = await self.store.champion(work.connection, done.model)
        assert champion is not None
        for body in await self.store.take_unbinned(work.connection, done.model, done.epoch):
            await self.watching.bin(champion, predictions(read_stream(body)), work)
        return await self._close(champion, work, idle=False)

    async def on_reference_failed(self, failed: JobFailed[BuildReference], work: UnitOfWork) -> tuple[Event, ...]:
        """Go on without drift of inputs."""
        job = failed.job
        await self.store.reference_failed(work.connection, job.model, job.epoch, failed.message)
        champion = await self.store.champion(work.connection, job.model)
        return () if champion is None else await self._close(champion, work, idle=False)

    async def on_model_deployed(self, event: ModelDeployed, work: UnitOfWork) -> tuple[Event, ...]:
        """Remember since when a replica answers with a version."""
        await self.store.keep_deployment(work.connection, event)
        return ()

    async def on_look_again(self, timer: LookAgain, work: UnitOfWork) -> tuple[Event, ...]:
        """Nobody has predicted for a while: close the window; somebody has: look again."""
        champion = await self.store.champion(work.connection, timer.model)
        if champion is None or champion.next_end != timer.end:
            return ()
        progress = await self.store.progress(work.connection, champion)
        if progress.heard_at is not None and work.now - progress.heard_at < IDLE:
            await self._look_again(champion, work, 1 - timer.turn)
            return ()
        return await self._close(champion, work, idle=True)

    async def _keep_predictions(
        self, champion: Champion | None, event: PredictionsServed, work: UnitOfWork
    ) -> list[str]:
        """Keep what an event brings; the record ids in it, whose labels may be here already."""
        table = predictions(read_stream(event.body))
        if not table.num_rows:
            return []
        columns = prediction_columns(table)
        await self.store.add_predictions(work.connection, event.model, columns, work.now)
        if champion is not None and champion.judges_inputs and champion.reference is not None:
            await self.watching.bin(champion, table, work)
        epochs = set(columns.epochs)
        ahead = max(epochs) > champion.epoch if champion else True
        waits = champion is not None and champion.judges_inputs and champion.reference is None
        if ahead or (waits and champion is not None and champion.epoch in epochs):
            await self.store.keep_unbinned(work.connection, event.model, max(epochs), event.body)
        return [one for one in columns.record_ids if one is not None]

    async def _close(self, champion: Champion, work: UnitOfWork, *, idle: bool) -> tuple[Event, ...]:
        said, waiting = await self.watching.close(champion, work, idle=idle)
        if waiting is not None:
            await self._look_again(waiting, work, 0)
        return said

    async def _look_again(self, champion: Champion, work: UnitOfWork, turn: int) -> None:
        timer = LookAgain(model=champion.model, end=champion.next_end, turn=turn)
        await work.jobs.add(timer, not_before=IDLE)


SAYS = (PerformanceMeasured, DriftDetected, DriftResolved)
HEARS = (
    on(PredictionsServed, MonitoringHandlers.on_predictions_served, says=SAYS, bulk=True),
    on(DataValidated, MonitoringHandlers.on_data_validated),
    on(LabelsRead, MonitoringHandlers.on_labels_read, says=SAYS),
    on(ModelPromoted, MonitoringHandlers.on_champion_moved, says=(DriftResolved,)),
    on(ModelRolledBack, MonitoringHandlers.on_champion_moved, says=(DriftResolved,)),
    on(ReferenceBuilt, MonitoringHandlers.on_reference_built, says=SAYS),
    on(ModelDeployed, MonitoringHandlers.on_model_deployed),
    on(LookAgain, MonitoringHandlers.on_look_again, says=SAYS),
)
