"""Wakes the readers of the stream when facts were heard."""

import asyncio
import contextlib


class Feed:
    """One bell for all readers; each reads on from its own cursor."""

    def __init__(self) -> None:
        self._bell = asyncio.Event()

    def ring(self) -> None:
        """Facts are about to be committed."""
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()

    async def wait(self, seconds: float) -> None:
        """Until the bell rings, or so long; who rang commits only after it, so readers look twice."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._bell.wait(), seconds)
