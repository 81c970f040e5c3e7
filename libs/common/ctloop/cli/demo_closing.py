"""What the demo says at its end: each loop, what was asked and sent, the same flights under other policies, what to try."""

import json
from datetime import datetime, timedelta
from typing import Any

from ctloop.cli.demo import DATASET, EXAMPLE, MODEL, Story


def closing(client: Any, story: Story) -> bool:
    """Print what was measured; whether two loops closed, one because of the world, with nothing failed, lost or doubled."""
    watched, tally = story.watched, story.tally
    loops = client.loops(MODEL)["items"]
    closed = [one for one in loops if one["state"] == "closed"]
    retrained = [one for one in closed if one["trigger"] in ("performance", "drift")]
    numbers = [one["data"]["number"] for one in watched.all("DataValidated") if one["subject"] == DATASET]
    twice, lost = len(numbers) - len(set(numbers)), tally.sent - watched.landed()
    print()
    for one in reversed(loops):
        took = one["decision_to_answer_seconds"]
        shown = (
            f"{took:.1f} s = user {one['user_seconds']:.1f} + platform {one['platform_seconds']:.1f}" if took else ""
        )
        print(f"  loop {one['number']}  {one['state']:<9} {one['trigger']:<12} {shown}\n          {one['reason']}")
    heard = sum(one["facts"] for one in client.facts()["items"])
    hop = next((one["p95_seconds"] for one in client.latencies()["items"] if one["name"] == "said to heard"), 0.0)
    print(
        f"\n  requests {tally.asked:,} · failed {tally.failed} · rows sent {tally.sent:,} · lost {lost} · applied twice {twice}"
        f"\n  facts {heard:,} · said to heard p95 {1000 * hop:.0f} ms · one trace per loop: ctloop loop show {MODEL} 1"
    )
    return bool(len(closed) >= 2 and retrained and not tally.failed and lost == 0 and twice == 0)


def compare(story: Story, table: Any) -> None:
    """The same flights, never retrained and retrained weekly, by the same code path."""
    print(f"\n  the same flights until {story.until:%b %d}, by the same code path (ctloop replay):")
    for line in replayed(story, table).lines():
        if not line:
            return  # its fits are the loops above
        print(f"  {line}")


def replayed(story: Story, table: Any) -> Any:
    """The story told again in one process: its rows, its first decision, its hyperparameters, its swaps."""
    from ctloop import bundle
    from ctloop.replay import Settings, replay

    trained = {one["data"]["run_id"]: one["data"] for one in story.watched.all("ModelTrained")}
    judged = [one["data"]["run_id"] for one in story.watched.all("ModelValidated")]
    first = datetime.fromisoformat(story.watched.all("RetrainDecided")[0]["data"]["data_time"])
    settings = Settings(
        history_until=first + timedelta(microseconds=1),
        live_from=story.live_from,
        params={version: dict(trained[run]["params"]) for version, run in enumerate(judged, 1)},
    )
    model = vars(bundle.load_module(EXAMPLE / "flights.py", MODEL))[MODEL]
    return replay(story.manifest, model, table.filter(before(table, story.until)), settings)


def before(table: Any, until: datetime) -> Any:
    """Which rows depart before a moment."""
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute
    return pc.less(table.column("departs"), pa.scalar(until, pa.timestamp("us", "UTC")))


def ending(client: Any, seconds: float, *, keep: bool) -> None:
    """Why the model of now, and what to do next."""
    newest = client.champion(MODEL)
    row = '{"carrier":"UA","origin":"EWR","dest":"ORD","distance":719,"departs":"2013-07-01T12:00:00Z"}'
    print(f"\n  why {MODEL}@{newest['version']}?  {client.why(MODEL, newest['version'])['sentence']}")
    print(f"  try it:  curl -s {client.urls['serving']}/v1/models/{MODEL}/predict -d '{row}'")
    print(f"           {json.dumps(client.predict(MODEL, json.loads(row)))}")
    if not keep:
        print("           (that was its answer; all is stopped now: make demo KEEP=1 leaves it running)")
    print("  yours:   ctloop init --from your.csv && ctloop replay model.py your.csv    (no stack needed)")
    print(f"  {seconds:.0f} s")
