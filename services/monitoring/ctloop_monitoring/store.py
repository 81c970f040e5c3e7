"""All SQL of monitoring: predictions, labels, the watch, bins, windows, episodes."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from ctloop.events.drift import DriftDetected, DriftResolved
from ctloop.events.model import ModelDeployed, PerformanceMeasured, Promotion
from ctloop.events.values import Window
from ctloop_monitoring.domain.champion import Champion, OpenEpisode, Progress
from ctloop_monitoring.domain.columns import Judged, LabelColumns, PredictionColumns

Connection = Any


class MonitoringStore:
    """Monitoring's tables in its own words. Every method takes the connection of the unit of work."""

    async def watch(
        self, connection: Connection, promotion: Promotion, first_end: datetime, labels_from: datetime
    ) -> bool:
        """Watch a new epoch from now on; False when a later one is watched already."""
        window = promotion.training_window
        return bool(
            await connection.fetchval(
                """INSERT INTO watch (model, dataset, version, epoch, pipeline_digest, classes, training_start,
                     training_end, training_rows, promoted_data_time, first_end, next_end, labels_from)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $12)
                   ON CONFLICT (model) DO UPDATE SET dataset = excluded.dataset, version = excluded.version,
                     epoch = excluded.epoch, pipeline_digest = excluded.pipeline_digest, classes = excluded.classes,
                     training_start = excluded.training_start, training_end = excluded.training_end,
                     training_rows = excluded.training_rows, promoted_data_time = excluded.promoted_data_time,
                     first_end = excluded.first_end, next_end = excluded.next_end, labels_from = excluded.labels_from,
                     reference = NULL, reference_failed = NULL, detector = NULL, episodes = NULL
                   WHERE watch.epoch < excluded.epoch RETURNING true""",
                promotion.model, promotion.dataset, promotion.version, promotion.epoch, promotion.pipeline_digest,
                list(promotion.signature.classes), window.start, window.end, window.rows, promotion.data_time, first_end,
                labels_from,
            )
        )  # fmt: skip

    async def champion(self, connection: Connection, model: str) -> Champion | None:
        """The champion under watch, locked until the end of the transaction: a model's work is done in order."""
        row = await connection.fetchrow("SELECT * FROM watch WHERE model = $1 FOR UPDATE", model)
        return None if row is None else _champion(row)

    async def models_over(self, connection: Connection, dataset: str) -> tuple[str, ...]:
        """Models under watch whose labels come with this dataset, sorted."""
        rows = await connection.fetch("SELECT model FROM watch WHERE dataset = $1 ORDER BY model", dataset)
        return tuple(row["model"] for row in rows)

    async def move_on(
        self,
        connection: Connection,
        champion: Champion,
        next_end: datetime,
        *,
        detector: str | None,
        episodes: str | None,
    ) -> None:
        """A window was closed."""
        await connection.execute(
            "UPDATE watch SET next_end = $2, detector = $3, episodes = $4 WHERE model = $1",
            champion.model, next_end, detector, episodes,
        )  # fmt: skip

    async def keep_reference(self, connection: Connection, model: str, epoch: int, reference: str) -> bool:
        """The bins of an epoch; False when it is no longer watched."""
        return bool(
            await connection.fetchval(
                "UPDATE watch SET reference = $3 WHERE model = $1 AND epoch = $2 RETURNING true",
                model,
                epoch,
                reference,
            )
        )

    async def reference_failed(self, connection: Connection, model: str, epoch: int, message: str) -> None:
        """There will be no bins of this epoch: drift of its inputs is not measured."""
        await connection.execute(
            "UPDATE watch SET reference_failed = $3 WHERE model = $1 AND epoch = $2", model, epoch, message
        )
        await connection.execute("DELETE FROM unbinned WHERE model = $1 AND epoch <= $2", model, epoch)

    async def add_predictions(
        self, connection: Connection, model: str, found: PredictionColumns, now: datetime
    ) -> None:
        """Keep predictions, each once."""
        await connection.execute(
            """INSERT INTO prediction (model, prediction_id, record_id, version, epoch, output, probabilities, data_time)
               SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::int[], $5::int[], $6::float8[], $7::bytea[],
                 $8::timestamptz[]) ON CONFLICT (model, prediction_id) DO NOTHING""",
            model, found.prediction_ids, found.record_ids, found.versions, found.epochs, found.outputs,
            found.probabilities, found.data_times,
        )  # fmt: skip
        await connection.execute(
            """INSERT INTO served (model, until, heard_at, unjoinable) VALUES ($1, $2, $3, $4)
               ON CONFLICT (model) DO UPDATE SET until = greatest(served.until, excluded.until),
                 heard_at = greatest(served.heard_at, excluded.heard_at),
                 unjoinable = served.unjoinable + excluded.unjoinable""",
            model, max(found.data_times), now, sum(one is None for one in found.record_ids),
        )  # fmt: skip

    async def add_labels(self, connection: Connection, dataset: str, found: LabelColumns) -> None:
        """Keep observations of labels, each once."""
        await connection.execute(
            """INSERT INTO label (dataset, record_id, observed_at, sequence, word, number)
               SELECT $1, * FROM unnest($2::text[], $3::timestamptz[], $4::bigint[], $5::text[], $6::float8[])
               ON CONFLICT DO NOTHING""",
            dataset, found.record_ids, found.observed_at, found.sequences, found.words, found.numbers,
        )  # fmt: skip

    async def advance(self, connection: Connection, dataset: str, data_time: datetime) -> None:
        """Data time of a dataset goes forward only."""
        await connection.execute(
            """INSERT INTO dataset_clock (dataset, data_time) VALUES ($1, $2)
               ON CONFLICT (dataset) DO UPDATE SET data_time = greatest(dataset_clock.data_time, excluded.data_time)""",
            dataset, data_time,
        )  # fmt: skip

    async def data_time(self, connection: Connection, dataset: str) -> datetime | None:
        """How far the data of a dataset have come; None: none was heard of."""
        return await connection.fetchval("SELECT data_time FROM dataset_clock WHERE dataset = $1", dataset)

    async def progress(self, connection: Connection, champion: Champion) -> Progress:
        """How far data and predictions have come."""
        row = await connection.fetchrow(
            """SELECT (SELECT data_time FROM dataset_clock WHERE dataset = $1) AS data_time,
                 s.until, s.heard_at FROM (SELECT 1) one LEFT JOIN served s ON s.model = $2""",
            champion.dataset, champion.model,
        )  # fmt: skip
        return Progress(row["data_time"], row["until"], row["heard_at"])

    async def judged(
        self, connection: Connection, champion: Champion, start: datetime, end: datetime, as_of: datetime | None
    ) -> Judged:
        """Predictions of the version whose record's label became known in [start, end), in the order it became known.

        The label is its latest observation before ``as_of`` (None: the latest of all). A prediction made after its label
        was known is not judged.
        """
        rows = await connection.fetch(
            """WITH touched AS (
                 SELECT DISTINCT record_id FROM label WHERE dataset = $1 AND observed_at >= $4 AND observed_at < $5),
               known AS (
                 SELECT l.record_id, min(l.observed_at) AS known_at,
                   (array_agg(ROW(l.word, l.number) ORDER BY l.observed_at DESC, l.sequence DESC)
                      FILTER (WHERE $6::timestamptz IS NULL OR l.observed_at < $6))[1] AS latest
                 FROM label l JOIN touched USING (record_id) WHERE l.dataset = $1 GROUP BY l.record_id)
               SELECT p.record_id, p.output, p.probabilities, k.latest, k.known_at, p.data_time
               FROM known k JOIN prediction p ON p.model = $2 AND p.record_id = k.record_id AND p.version = $3
               WHERE k.known_at >= $4 AND p.data_time <= k.known_at
               ORDER BY k.known_at, p.data_time, p.prediction_id""",
            champion.dataset, champion.model, champion.version, start, end, as_of,
        )  # fmt: skip
        return Judged.of([(one[0], one[1], one[2], one[3][0], one[3][1], one[4], one[5]) for one in rows])

    async def corrected_since(self, connection: Connection, champion: Champion, start: datetime, end: datetime) -> bool:
        """A label that became known in [start, end) was corrected at or after its end."""
        return await connection.fetchval(
            """SELECT EXISTS (SELECT 1 FROM label l JOIN label e USING (dataset, record_id)
               WHERE dataset = $1 AND l.observed_at >= $3 AND e.observed_at >= $2 AND e.observed_at < $3)""",
            champion.dataset, start, end,
        )  # fmt: skip

    async def outputs_in(
        self, connection: Connection, champion: Champion, start: datetime, end: datetime
    ) -> list[float | None]:
        """Outputs of the version's predictions with data time in [start, end), in order."""
        rows = await connection.fetch(
            """SELECT output FROM prediction WHERE model = $1 AND version = $2 AND data_time >= $3 AND data_time < $4
               ORDER BY data_time, prediction_id""",
            champion.model, champion.version, start, end,
        )  # fmt: skip
        return [row["output"] for row in rows]

    async def measured_windows_of(
        self, connection: Connection, champion: Champion, record_ids: Sequence[str], step: timedelta
    ) -> tuple[datetime, ...]:
        """Ends of measured windows in which a label of one of these records was observed."""
        rows = await connection.fetch(
            """SELECT DISTINCT m.window_end FROM label l
               JOIN measured m ON m.window_end > l.observed_at AND m.window_end <= l.observed_at + $5::interval
               WHERE l.dataset = $1 AND l.record_id = ANY($2::text[]) AND m.model = $3 AND m.epoch = $4
               ORDER BY m.window_end""",
            champion.dataset, list(record_ids), champion.model, champion.epoch, step,
        )  # fmt: skip
        return tuple(row["window_end"] for row in rows)

    async def bins(self, connection: Connection, champion: Champion, ends: Iterable[datetime]) -> dict[datetime, str]:
        """Counts of some windows, by their end."""
        rows = await connection.fetch(
            "SELECT window_end, counts FROM binned WHERE model = $1 AND epoch = $2 AND window_end = ANY($3::timestamptz[])",
            champion.model, champion.epoch, list(ends),
        )  # fmt: skip
        return {row["window_end"]: row["counts"] for row in rows}

    async def keep_bins(self, connection: Connection, champion: Champion, counts: dict[datetime, str]) -> None:
        """Counts of some windows, replacing what was there."""
        await connection.execute(
            """INSERT INTO binned (model, epoch, window_end, counts)
               SELECT $1, $2, * FROM unnest($3::timestamptz[], $4::text[])
               ON CONFLICT (model, epoch, window_end) DO UPDATE SET counts = excluded.counts""",
            champion.model, champion.epoch, list(counts), list(counts.values()),
        )  # fmt: skip

    async def keep_unbinned(self, connection: Connection, model: str, epoch: int, body: bytes) -> None:
        """Predictions of an epoch whose reference is not built yet."""
        await connection.execute("INSERT INTO unbinned (model, epoch, body) VALUES ($1, $2, $3)", model, epoch, body)

    async def take_unbinned(self, connection: Connection, model: str, epoch: int) -> list[bytes]:
        """All of them in order; those of earlier epochs are forgotten."""
        rows = await connection.fetch(
            "DELETE FROM unbinned WHERE model = $1 AND epoch <= $2 RETURNING n, epoch, body", model, epoch
        )
        return [row["body"] for row in sorted(rows, key=lambda row: row["n"]) if row["epoch"] == epoch]

    async def keep_measured(self, connection: Connection, said: PerformanceMeasured) -> bool:
        """A window's measurement, replacing an earlier one; False when it says the same as the earlier one."""
        before = await connection.fetchval(
            "SELECT said FROM measured WHERE model = $1 AND epoch = $2 AND window_end = $3",
            said.model, said.epoch, said.window.end,
        )  # fmt: skip
        if before is not None:
            earlier = PerformanceMeasured.model_validate_json(before)
            if earlier == said.model_copy(update={"data_time": earlier.data_time}):
                return False
        await connection.execute(
            """INSERT INTO measured (model, epoch, window_end, data_time, said) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (model, epoch, window_end) DO UPDATE SET data_time = excluded.data_time, said = excluded.said""",
            said.model, said.epoch, said.window.end, said.data_time, said.model_dump_json(),
        )  # fmt: skip
        return True

    async def keep_scores(self, connection: Connection, champion: Champion, end: datetime, said: str) -> None:
        """Drift scores of a window, for people."""
        await connection.execute(
            """INSERT INTO drift_score (model, epoch, window_end, said) VALUES ($1, $2, $3, $4)
               ON CONFLICT (model, epoch, window_end) DO UPDATE SET said = excluded.said""",
            champion.model, champion.epoch, end, said,
        )  # fmt: skip

    async def keep_drift(
        self, connection: Connection, epoch: int, said: Sequence[DriftDetected | DriftResolved]
    ) -> None:
        """Episodes that opened or ended."""
        for one in said:
            if isinstance(one, DriftDetected):
                await connection.execute(
                    "INSERT INTO episode (episode, model, epoch, kind, detected) VALUES ($1, $2, $3, $4, $5)",
                    one.episode, one.model, epoch, one.kind, one.model_dump_json(),
                )  # fmt: skip
            else:
                await connection.execute(
                    "UPDATE episode SET resolved = $2 WHERE episode = $1", one.episode, one.model_dump_json()
                )

    async def open_episodes(self, connection: Connection, model: str) -> tuple[OpenEpisode, ...]:
        """Episodes of a model that have not ended."""
        rows = await connection.fetch(
            "SELECT episode, kind FROM episode WHERE model = $1 AND resolved IS NULL ORDER BY kind, episode", model
        )
        return tuple(OpenEpisode(row["episode"], row["kind"]) for row in rows)

    async def keep_deployment(self, connection: Connection, event: ModelDeployed) -> None:
        """Which replica answers with what since when."""
        await connection.execute(
            """INSERT INTO deployment (model, epoch, replica, version, first_answer_at) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT DO NOTHING""",
            event.model, event.epoch, event.replica, event.version, event.first_answer_at,
        )  # fmt: skip


def _champion(row: Any) -> Champion:
    return Champion(
        model=row["model"],
        dataset=row["dataset"],
        version=row["version"],
        epoch=row["epoch"],
        pipeline_digest=row["pipeline_digest"],
        classes=tuple(row["classes"]),
        training_window=Window(start=row["training_start"], end=row["training_end"], rows=row["training_rows"]),
        promoted_data_time=row["promoted_data_time"],
        first_end=row["first_end"],
        next_end=row["next_end"],
        reference=row["reference"],
        reference_failed=row["reference_failed"],
        detector=row["detector"],
        episodes=row["episodes"],
    )
