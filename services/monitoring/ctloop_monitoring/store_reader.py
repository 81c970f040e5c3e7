"""What people ask of monitoring's tables: windows, scores, episodes."""

from typing import Any

from ctloop.events.model import PerformanceMeasured

Connection = Any


class WatchReader:
    """What people ask for: windows, scores, episodes."""

    async def performance(self, connection: Connection, model: str, limit: int) -> list[PerformanceMeasured]:
        """Measured windows, newest first."""
        rows = await connection.fetch(
            "SELECT said FROM measured WHERE model = $1 ORDER BY epoch DESC, window_end DESC LIMIT $2", model, limit
        )
        return [PerformanceMeasured.model_validate_json(row["said"]) for row in rows]

    async def scores(self, connection: Connection, model: str, limit: int) -> list[str]:
        """Drift scores per window as JSON, newest first."""
        rows = await connection.fetch(
            "SELECT said FROM drift_score WHERE model = $1 ORDER BY epoch DESC, window_end DESC LIMIT $2", model, limit
        )
        return [row["said"] for row in rows]

    async def episodes(self, connection: Connection, model: str, limit: int) -> list[tuple[str, str | None]]:
        """Episodes as said: detected, and resolved where it has ended; newest first."""
        rows = await connection.fetch(
            "SELECT detected, resolved FROM episode WHERE model = $1 ORDER BY detected::json->>'data_time' DESC LIMIT $2",
            model, limit,
        )  # fmt: skip
        return [(row["detected"], row["resolved"]) for row in rows]

    async def state(self, connection: Connection, model: str) -> dict[str, Any] | None:
        """How the watch over a model stands."""
        row = await connection.fetchrow(
            """SELECT w.version, w.epoch, w.next_end, w.reference IS NOT NULL AS reference, w.reference_failed,
                 c.data_time, s.until AS served_until, coalesce(s.unjoinable, 0) AS unjoinable
               FROM watch w LEFT JOIN dataset_clock c USING (dataset) LEFT JOIN served s USING (model)
               WHERE w.model = $1""",
            model,
        )  # fmt: skip
        return None if row is None else dict(row)
