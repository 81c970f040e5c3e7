"""Time and chance as arguments, so that a simulation can drive the same code."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random, SystemRandom


@dataclass
class Clock:
    """The real clock."""

    random: Random = field(default_factory=SystemRandom)

    def now(self) -> datetime:
        """Wall clock, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never step back."""
        return time.monotonic()
