"""The demo's story on real flights: with every process killed once, and decided as replay decides."""

import math
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

import ctloop.local
from ctloop.cli import demo, demo_closing
from ctloop.client import Client
from ctloop.local.state import Stack
from ctloop.policy.decide import DEFAULT

pytestmark = [pytest.mark.e2e, pytest.mark.stack, pytest.mark.timeout(1500)]
WEEKS = 16
VICTIMS = (
    "serving",
    "monitoring",
    "registry",
    "validation",
    "ingestion",
    "console",
    "kafka",
    "postgres",
    "s3",
    "ray",
    "mlflow",
)
"""training is killed by the demo itself, in the middle of its second run."""


@pytest.fixture(scope="module")
def story(stack: Stack) -> Iterator[demo.Story]:
    """One run of the demo in which each process is killed once, in turn, with kill -9."""
    left = list(VICTIMS)

    def kill_one(week: int) -> None:
        if left:
            ctloop.local.kill(stack.data_dir, left.pop(0))

    data = demo.load_data()
    told = demo.run(stack, time.monotonic(), WEEKS, data, data.flights(), between=kill_one)
    while left:  # the story was over early: the rest must not end the stack either
        ctloop.local.kill(stack.data_dir, left.pop(0))
    yield told


def test_each_process_killed_once_the_story_ends_the_same(story: demo.Story, stack: Stack) -> None:
    """Two loops closed, one because performance was lost; no request failed; nothing lost or applied twice."""
    with Client(urls=stack.urls, patience_seconds=60) as client:
        assert demo_closing.closing(client, story)
    assert set(story.live_from) == {1, 2}


def test_replay_decides_as_the_services_did(story: demo.Story, stack: Stack) -> None:
    """Decision by decision: data time, action, and the value of every node."""
    with Client(urls=stack.urls, patience_seconds=60) as client:
        decided = client.decisions(demo.MODEL, limit=500)["items"]
    replayed = demo_closing.replayed(story, demo.load_data().flights()).decisions
    ours = {moment(one["data_time"]): one for one in decided if one["tree"]["text"] == DEFAULT}
    theirs = {one.data_time: one for one in replayed if one.tree.text == DEFAULT}
    assert replayed[0].acts
    assert ours
    assert set(ours) == {at for at in theirs if at <= max(ours)}
    for at, one in ours.items():
        assert (one["outcome"] == "acted") == theirs[at].acts, at
        assert_same_tree(one["tree"], theirs[at].tree.model_dump(mode="json"), at)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def assert_same_tree(ours: dict[str, Any], theirs: dict[str, Any], at: datetime) -> None:
    """The same nodes with the same values, numbers to four digits (ONNX answers in 32 bits)."""
    assert ours["text"] == theirs["text"], at
    mine, other = ours.get("value"), theirs.get("value")
    if isinstance(mine, float) and isinstance(other, float):
        assert math.isclose(mine, other, rel_tol=1e-3, abs_tol=1e-4), (at, ours["text"], mine, other)
    else:
        assert mine == other, (at, ours["text"], mine, other)
    for left, right in zip(ours.get("args", ()), theirs.get("args", ()), strict=True):
        assert_same_tree(left, right, at)
