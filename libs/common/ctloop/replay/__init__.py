"""The whole policy over a user's table in one process: never retrained, periodic, ctloop; no stack.

The decisions are taken by the very functions of ``ctloop.policy`` that the services call, on the same rows. The user's
function is called in this process, once per run, with the middle of each range (no search).
"""

from ctloop.replay.bench import Settings
from ctloop.replay.loop import replay
from ctloop.replay.report import ReplayDecision, ReplayResult

__all__ = ["ReplayDecision", "ReplayResult", "Settings", "replay"]
