"""What opens before the first request and closes after the last."""

from ctloop_serving.batcher import Batcher
from ctloop_serving.capture import Capture
from ctloop_serving.rollout import Rollout

DRAIN_SECONDS = 5.0


class ServingRuntime:
    """Boots from the disk cache; at the end ships what was captured."""

    def __init__(self, rollout: Rollout, capture: Capture, batcher: Batcher) -> None:
        self._rollout, self._capture, self._batcher = rollout, capture, batcher

    async def __aenter__(self) -> "ServingRuntime":
        await self._rollout.boot()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._capture.drain(DRAIN_SECONDS)
        await self._rollout.close()
        self._batcher.close()
