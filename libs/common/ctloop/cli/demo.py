"""``ctloop demo``: a year of flights through the real stack, the loop closing before your eyes, and an honest table."""

import importlib.util
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import typer

from ctloop.cli import show
from ctloop.problems import Exit, Problem

EXAMPLE = Path(__file__).resolve().parents[4] / "examples" / "flights"
MODEL, DATASET = "flights", "flight"
HISTORY_START, HISTORY_END = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 28, tzinfo=UTC)
LAST = datetime(2013, 9, 2, tzinfo=UTC)
STORY_SECONDS = 50.0
"""After two closed loops the story goes on until a gate has refused something, but not for longer than this."""
ASK_SECONDS, LOOK_SECONDS, SHOW_SECONDS = 0.05, 0.05, 0.4
WEEK = timedelta(days=7)
ROWS = 1_000
QUIET_SECONDS = 0.6
PATIENCE_SECONDS = 120.0
BAR = "▇"
MARK = "made-by-the-demo"
SHOWN = frozenset(
    {
        *("DataValidated", "RetrainDecided", "TrainingStarted", "ModelTrained", "TrainingFailed"),
        *("ModelValidated", "ModelPromoted", "ModelDeployed", "DriftDetected"),
    }
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


@dataclass
class Watched:
    """What the console's stream has said so far."""

    started: float
    facts: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    last_heard: float = 0.0
    lateness: float = 0.0
    """Seconds between saying and hearing, of the last fact."""
    killed: bool = False

    def all(self, name: str) -> list[dict[str, Any]]:
        """Facts of one kind."""
        return [one for one in list(self.facts) if one["fact"] == name]

    @property
    def refused(self) -> bool:
        """Whether a gate has refused a candidate."""
        return any(one["data"].get("verdict") == "failed" for one in self.all("ModelValidated"))

    @property
    def loop_open(self) -> bool:
        """A decision was acted on whose loop has not ended."""
        ended = {"ModelDeployed", "TrainingFailed"}
        open_loops = {one["loop_id"] for one in self.all("RetrainDecided")}
        for one in list(self.facts):
            refused = one["fact"] == "ModelValidated" and one["data"].get("verdict") == "failed"
            if one["fact"] in ended or refused:
                open_loops.discard(one["loop_id"])
        return bool(open_loops)

    def landed(self) -> int:
        """Rows and labels the dataset has disposed of, one way or another."""
        total = 0
        for one in self.all("DataValidated"):
            if one["subject"] == DATASET:
                body = one["data"]
                gone = sum(rule["rows"] for rule in body.get("quarantined", []))
                total += body["rows"] + body["labelled"] + body.get("duplicates", 0) + gone
        return total


@dataclass
class Tally:
    """What was sent and asked."""

    sent: int = 0
    asked: int = 0
    failed: int = 0

    def fail(self, rows: int, problem: Problem) -> None:
        """Count rows that got no answer; the first failure is shown."""
        if not self.failed:
            show.say(problem.text())
        self.failed += rows


@dataclass
class Story:
    """How a run went."""

    manifest: Any
    watched: Watched
    tally: Tally
    live_from: dict[int, datetime]
    """Data time from which each version answered."""
    until: datetime
    """Data time up to which everything was sent."""


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave all running afterwards.")] = False,
    weeks: Annotated[int, typer.Option(help="At most so many weeks after January.")] = 31,
) -> None:
    """Flights of 2013 through the whole loop: exit 0 only if it closed twice, no request failed and no fact was lost."""
    import ctloop.local

    begin_anew(ctloop.local.data_dir_of())
    line(0.0, "starting", "kafka 4.4 · postgres 18 · s3 · mlflow · ray", "real ones, on loopback")
    began = time.monotonic()
    data = load_data()
    with ThreadPoolExecutor(1) as beside:
        reading = beside.submit(data.flights)
        stack = ctloop.local.up(on_progress=None)
    parts = f"{sum(1 for one in stack.processes if one.is_ready)} processes"
    line(time.monotonic() - began, "ready", parts, f"model file: {EXAMPLE / 'flights.py'}")
    try:
        good = told(stack, began, weeks, data, reading.result(), keep=keep)
    finally:
        if keep:
            for name, url in stack.urls.items():
                show.say(f"  {name:<11} {url}")
        else:
            ctloop.local.down()
    raise typer.Exit(0 if good else int(Exit.NO))


def begin_anew(data_dir: Path) -> None:
    """Remove what an earlier demo left; data of anybody else is not touched.

    Raises:
        Problem: CT9106, a stack runs there; CT9109, it holds other data.
    """
    import ctloop.local

    mark = data_dir / MARK
    if ctloop.local.status(data_dir).running:
        raise Problem("CT9106", f"in {data_dir}", "ctloop down, then make demo")
    if mark.exists():
        ctloop.local.down(data_dir)
        shutil.rmtree(data_dir)
    elif data_dir.exists() and any(data_dir.iterdir()):
        raise Problem("CT9109", f"{data_dir} holds data of yours")
    data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True)
    mark.touch()


def told(stack: Any, began: float, weeks: int, data: Any, table: Any, *, keep: bool) -> bool:
    """The story and its closing table; whether all went well."""
    from ctloop.cli import demo_closing
    from ctloop.client import Client

    story = run(stack, began, weeks, data, table, seconds=STORY_SECONDS)
    with Client(urls=stack.urls, patience_seconds=PATIENCE_SECONDS) as client:
        good = demo_closing.closing(client, story)
        demo_closing.compare(story, table)
        demo_closing.ending(client, time.monotonic() - began, keep=keep)
    return good


def run(
    stack: Any,
    began: float,
    weeks: int,
    data: Any,
    table: Any,
    *,
    seconds: float = 0.0,
    between: Callable[[int], None] | None = None,
) -> Story:
    """Apply, send January, then week by week; ``between`` is called before each week with its number."""
    from ctloop.cli.declaring import wait_until_known
    from ctloop.client import Client
    from ctloop.compiler import compile_file

    watched, tally = Watched(began), Tally()
    compiled = compile_file(EXAMPLE / "flights.py")[0]
    with Client(urls=stack.urls, patience_seconds=PATIENCE_SECONDS) as client:
        threading.Thread(target=listen, args=(stack, watched), daemon=True).start()
        wait_until_known(client, client.apply(compiled.manifest, compiled.bundle))
        _, records, labels = next(iter(data.batches(table, HISTORY_START, HISTORY_END, HISTORY_END - HISTORY_START)))
        send(client, with_dirt(records), labels, tally, began, "Jan 01-27")
        settle(client, watched, tally, first=True)
        live_from, until = {1: HISTORY_END}, HISTORY_END
        last = min(LAST, HISTORY_END + weeks * WEEK)
        with asking_all_along(stack, records, tally):
            for week, (until, records, labels) in enumerate(data.batches(table, HISTORY_END, last, WEEK)):
                if between is not None:
                    between(week)
                ask(client, records, tally)
                send(client, records, labels, tally, began, f"{until - WEEK:%b %d}")
                settle(client, watched, tally)
                live_from.setdefault(client.champion(MODEL)["version"], until)
                over = watched.refused or time.monotonic() - began > seconds
                if len(live_from) >= 2 and week >= weeks_after(live_from) and over:
                    break
        return Story(compiled.manifest, watched, tally, live_from, until)


def weeks_after(live_from: dict[int, datetime]) -> int:
    """The week after the newest version went live: seen working, the story may end."""
    return (max(live_from.values()) - HISTORY_END) // WEEK


def load_data() -> Any:
    """examples/flights/data.py.

    Raises:
        Problem: CT1001, it is not there: the demo runs in a checkout.
    """
    path = EXAMPLE / "data.py"
    spec = importlib.util.spec_from_file_location("ctloop_demo_data", path)
    if spec is None or spec.loader is None or not path.exists():
        raise Problem("CT1001", str(path), "Run the demo in a checkout of ctloop: make demo")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_dirt(records: Any) -> Any:
    """January with a few rows that cannot be: no distance, and an airport that does not exist."""
    bad = records.slice(0, 20).to_pylist()
    for number, row in enumerate(bad):
        row["flight"] = f"planted-{number}"
        row.update({"distance": 0.0} if number % 2 else {"origin": "XXX"})
    import pyarrow as pa

    return pa.concat_tables([records, pa.Table.from_pylist(bad, schema=records.schema)])


def send(client: Any, records: Any, labels: Any, tally: Tally, began: float, when: str) -> None:
    """Records as they depart, then the labels of those that have landed."""
    line(
        time.monotonic() - began,
        "producer",
        "DataArrived",
        f"{when}: {records.num_rows:,} flights, {labels.num_rows:,} labels",
    )
    client.send(DATASET, records)
    client.send(DATASET, labels)
    tally.sent += records.num_rows + labels.num_rows


def ask(client: Any, records: Any, tally: Tally) -> None:
    """What applications do before departure: ask for a prediction of each flight, under its id."""
    for start in range(0, records.num_rows, ROWS):
        rows = records.slice(start, ROWS).to_pylist()
        tally.asked += len(rows)
        try:
            client.predict(MODEL, rows)
        except Problem as problem:
            tally.fail(len(rows), problem)


@contextmanager
def asking_all_along(stack: Any, records: Any, tally: Tally) -> Generator[None]:
    """One request after another, also while a model is swapped; without ids, so that no label judges them."""
    from ctloop.client import Client

    rows = [
        {name: value for name, value in row.items() if name != "flight"} for row in records.slice(0, 500).to_pylist()
    ]
    aside, over = Tally(), threading.Event()

    def keep_asking() -> None:
        with Client(urls=stack.urls, patience_seconds=PATIENCE_SECONDS) as client:
            for row in cycle(rows):
                if over.wait(ASK_SECONDS):
                    return
                aside.asked += 1
                try:
                    client.predict(MODEL, row)
                except Problem as problem:
                    aside.fail(1, problem)

    thread = threading.Thread(target=keep_asking)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        tally.asked, tally.failed = tally.asked + aside.asked, tally.failed + aside.failed


def settle(client: Any, watched: Watched, tally: Tally, *, first: bool = False) -> None:
    """Wait until all that was sent is disposed of, nothing new is said, and no loop is open; ``first``: one has closed.

    Raises:
        Problem: CT9005.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        quiet = time.monotonic() - watched.last_heard > QUIET_SECONDS + 5 * watched.lateness
        live = watched.all("ModelDeployed") or not first
        if quiet and live and watched.landed() >= tally.sent and not watched.loop_open:
            return
        shown = watched.loop_open and sys.stdout.isatty()
        if shown:
            show_trials(client, watched)
        time.sleep(SHOW_SECONDS if shown else LOOK_SECONDS)
    raise Problem("CT9005", f"{watched.landed():,} of {tally.sent:,} rows disposed of; loop open: {watched.loop_open}")


def show_trials(client: Any, watched: Watched) -> None:
    """Progress of the open run, in place."""
    newest = next(iter(client.runs(MODEL, limit=1)["items"]), None)
    progress = newest["progress"] if newest and not newest["ended_at"] else {}
    if progress.get("trials"):
        done, trials, best = progress["trial"], progress["trials"], progress.get("best")
        bar = BAR * done + "·" * (trials - done)
        text = f"{bar}  trial {done} of {trials}, {progress['stage']}" + (f", best {best:.3g}" if best else "")
        print(
            f"\r{time.monotonic() - watched.started:6.1f}  {'training':<11} {'…':<16} {text}\x1b[K", end="", flush=True
        )


def listen(stack: Any, watched: Watched) -> None:
    """Print each fact as the console hears it; kill training in the middle of its second run."""
    import ctloop.local

    for fact in facts(stack.urls["console"]):
        watched.facts.append(fact)
        if fact["subject"].endswith(".predictions"):  # they land all along
            continue
        watched.last_heard = time.monotonic()
        watched.lateness = (datetime.now(UTC) - datetime.fromisoformat(fact["time"])).total_seconds()
        if fact["fact"] in SHOWN:
            line(time.monotonic() - watched.started, fact["service"], fact["fact"], fact["sentence"])
        if fact["fact"] == "TrainingStarted" and not watched.killed and len(watched.all("RetrainDecided")) >= 2:
            watched.killed = True
            ctloop.local.kill(stack.data_dir, "training")
            line(time.monotonic() - watched.started, "⚡", "kill -9 training", "in the middle of a run")


def facts(console: str) -> Iterator[dict[str, Any]]:
    """The console's stream, gone on with after a break."""
    import httpx

    seen = 0
    while True:
        try:
            with httpx.stream(
                "GET", f"{console}/v1/stream", headers={"Last-Event-ID": str(seen)}, timeout=httpx.Timeout(5, read=None)
            ) as answer:
                for text in answer.iter_lines():
                    if text.startswith("data: "):
                        fact = json.loads(text[6:])
                        seen = fact["seq"]
                        yield fact
        except httpx.HTTPError:
            time.sleep(0.2)


def line(seconds: float, who: str, what: str, text: str) -> None:
    """One line of the demo, over what is shown in place."""
    clear = "\r\x1b[K" if sys.stdout.isatty() else ""
    print(f"{clear}{seconds:6.1f}  {who:<11} {what:<16} {text}", flush=True)
