"""What monitoring lets go of when a window has closed."""

from datetime import datetime
from typing import Any

from ctloop_monitoring.domain.champion import Champion

Connection = Any


async def forget(connection: Connection, champion: Champion, before: datetime) -> None:
    """Let go of predictions and bins that no window of the model will ask for again, and of labels that no model's will."""
    await connection.execute("DELETE FROM prediction WHERE model = $1 AND data_time < $2", champion.model, before)
    await connection.execute("UPDATE watch SET labels_from = $2 WHERE model = $1", champion.model, before)
    await connection.execute(
        """DELETE FROM label WHERE dataset = $1
            AND observed_at < (SELECT min(labels_from) FROM watch WHERE dataset = $1)""",
        champion.dataset,
    )
    await connection.execute(
        "DELETE FROM binned WHERE model = $1 AND (epoch < $2 OR window_end < $3)",
        champion.model,
        champion.epoch,
        before,
    )


async def forget_measured(connection: Connection, champion: Champion, before: datetime) -> None:
    """Let go of measurements and scores of long ago."""
    for table in ("measured", "drift_score"):
        await connection.execute(
            f"DELETE FROM {table} WHERE model = $1 AND window_end < $2",  # noqa: S608 two fixed names
            champion.model,
            before,
        )
