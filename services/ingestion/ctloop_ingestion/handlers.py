"""What ingestion does with what it hears: place arrivals in batches, close batches, say that they landed."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from prometheus_client import Counter

from ctloop.events.data import DataArrived, DataLanded, PredictionsServed
from ctloop.events.envelope import Event
from ctloop.events.errors import DatasetNotYetKnown, ModelNotYetKnown, UnsupportedFormat
from ctloop.platform.delivery import Heard, UnitOfWork, on
from ctloop.platform.jobs import JobFailed
from ctloop.platform.pipelines import PREDICTIONS
from ctloop_ingestion.domain.bodies import count_rows, format_of
from ctloop_ingestion.domain.coalescing import Limits, place
from ctloop_ingestion.store import IngestionStore, NewArrival
from ctloop_ingestion.work import BatchStaged, CloseBatch, StageBatch

Said = tuple[tuple[Event, ...], ...]
INGESTED = Counter("ctloop_events_ingested", "Arrivals placed in batches, by dataset.", ["dataset"])


class IngestionHandlers:
    """Arrivals become batches."""

    def __init__(self, store: IngestionStore, limits: Limits | None = None) -> None:
        self.store = store
        self.limits = limits or Limits()

    async def on_data_arrived(self, heard: Sequence[Heard], work: UnitOfWork) -> Said:
        """Place arrivals of records."""
        return await self._take(heard, work)

    async def on_predictions_served(self, heard: Sequence[Heard], work: UnitOfWork) -> Said:
        """Predictions land like any other data, as the dataset ``<model>.predictions``."""
        return await self._take(heard, work)

    async def on_close_batch(self, timer: CloseBatch, work: UnitOfWork) -> tuple[Event, ...]:
        """Nothing more came in time: what is there is a batch. A batch that was full before is closed already."""
        batch = await self.store.open_batch(work.connection, timer.dataset)
        if batch.number == timer.number and batch.arrivals:
            await work.jobs.add(StageBatch(dataset=timer.dataset, number=batch.number))
            await self.store.save_open(work.connection, timer.dataset, batch.next())
        return ()

    async def on_batch_staged(self, done: BatchStaged, work: UnitOfWork) -> tuple[Event, ...]:
        """The batch is an object: say so."""
        await self.store.landed(
            work.connection, done.dataset, done.number, done.batch, done.rows, done.labels, work.now
        )
        return (DataLanded.model_validate(done.model_dump()),)

    async def on_stage_failed(self, failed: JobFailed[Any], work: UnitOfWork) -> tuple[Event, ...]:
        """Set the batch aside with its arrivals; the next ones go on."""
        job: StageBatch = failed.job
        await self.store.could_not_land(work.connection, job.dataset, job.number, failed.message[:2000], work.now)
        return ()

    async def _take(self, heard: Sequence[Heard], work: UnitOfWork) -> Said:
        arrivals: dict[str, list[tuple[Heard, str, int, int]]] = defaultdict(list)
        for one in heard:
            arrivals[one.event.dataset].append((one, *_measured(one.event)))
        for dataset, measured in arrivals.items():
            await self._place(dataset, measured, work)
        return tuple(() for _ in heard)

    async def _place(self, dataset: str, measured: Sequence[tuple[Heard, str, int, int]], work: UnitOfWork) -> None:
        if not await self.store.known(work.connection, dataset):
            raise _unknown(dataset)
        before = batch = await self.store.open_batch(work.connection, dataset)
        placed: list[NewArrival] = []
        for one, format, rows, size in measured:
            # what a reference grows to is not known yet: it is a batch of its own
            found = place(batch, rows, self.limits.bytes if format == "reference" else size, self.limits)
            batch = found.open
            envelope = one.envelope
            placed.append(
                NewArrival(
                    found.number, envelope.id, envelope.source, envelope.time, format, rows, size, one.event.body
                )
            )
            for number in found.closed:
                await work.jobs.add(StageBatch(dataset=dataset, number=number))
        await self.store.add_arrivals(work.connection, dataset, placed)
        INGESTED.labels(dataset).inc(len(placed))
        await self.store.save_open(work.connection, dataset, batch)
        if batch.arrivals and (batch.number != before.number or not before.arrivals):
            wait = self.limits.predictions_wait if dataset.endswith(PREDICTIONS) else self.limits.wait
            await work.jobs.add(CloseBatch(dataset=dataset, number=batch.number), not_before=wait)


def _measured(event: DataArrived | PredictionsServed) -> tuple[str, int, int]:
    format = format_of(event.content_type)
    if isinstance(event, PredictionsServed) and format != "arrow":
        raise UnsupportedFormat("predictions come as an Arrow stream")
    return format, *count_rows(format, event.body)


def _unknown(dataset: str) -> DatasetNotYetKnown | ModelNotYetKnown:
    if dataset.endswith(PREDICTIONS):
        return ModelNotYetKnown(f"model {dataset.removesuffix(PREDICTIONS)!r} is not known here: apply its file first")
    return DatasetNotYetKnown(f"dataset {dataset!r} is not declared by any applied model file")


HEARS = (
    on(DataArrived, IngestionHandlers.on_data_arrived, bulk=True),
    on(PredictionsServed, IngestionHandlers.on_predictions_served, bulk=True),
    on(CloseBatch, IngestionHandlers.on_close_batch),
    on(BatchStaged, IngestionHandlers.on_batch_staged, says=(DataLanded,)),
)
