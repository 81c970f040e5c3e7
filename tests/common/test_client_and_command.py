"""The SDK and the command against a real HTTP server: what is sent, repeated, shown, and how a refusal ends."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import pytest

from ctloop.client import CHUNK_ROWS, AsyncClient, Client
from ctloop.problems import Exit, Problem
from ctloop.tables import as_table

SERVICES = ("ingestion", "validation", "training", "registry", "serving", "monitoring", "console")


@dataclass
class Asked:
    """A request the server got."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Site:
    """An HTTP server that answers from a table, and keeps what it was asked."""

    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict[tuple[str, str], tuple[int, Any]])
    asked: list[Asked] = field(default_factory=list[Asked])
    broken: int = 0
    """So many requests are hung up on first."""
    url: str = ""

    def urls(self) -> dict[str, str]:
        return dict.fromkeys(SERVICES, self.url)

    def environment(self) -> dict[str, str]:
        named = {f"CTLOOP_{name.upper()}__URL": self.url for name in SERVICES}
        return {**os.environ, **named, "NO_COLOR": "1"}


@pytest.fixture
def site() -> Iterator[Site]:
    """A server on a free port of the loopback."""
    made = Site()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = self.path.partition("?")[0]
            headers = {name.lower(): value for name, value in self.headers.items()}
            made.asked.append(Asked(self.command, path, headers, body))
            if made.broken:
                made.broken -= 1
                self.connection.close()
                return
            missing = (404, {"code": "CT3201", "title": "no such model", "detail": path, "hint": "ctloop model ls"})
            status, value = made.answers.get((self.command, path), missing)
            payload = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = answer  # noqa: N815 the names http.server looks for

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    server.server_close()


def ctloop(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-m", "ctloop.cli.main", *arguments],
        capture_output=True, text=True, timeout=60, env=site.environment(), check=False,
    )  # fmt: skip


RECORDS = ("POST", "/v1/datasets/flight/records")


def test_send_splits_rows_under_one_key(site: Site) -> None:
    """Rows beyond a request's limit go in several Arrow streams, each with its own part of the idempotency key."""
    site.answers[RECORDS] = (202, {"receipts": []})
    with Client(urls=site.urls()) as client:
        receipts = client.send("flight", pa.table({"n": range(CHUNK_ROWS + 1)}), key="k")
    assert len(receipts) == 2 and [one.headers["idempotency-key"] for one in site.asked] == ["k-0", "k-1"]
    assert [pa.ipc.open_stream(one.body).read_all().num_rows for one in site.asked] == [CHUNK_ROWS, 1]


def test_a_broken_connection_is_tried_again_under_the_same_key(site: Site) -> None:
    """A send that was hung up on is repeated with the same key, so that it lands once."""
    site.answers[RECORDS], site.broken = (202, {"receipts": []}), 1
    with Client(urls=site.urls()) as client:
        client.send("flight", [{"n": 1}])
    assert len(site.asked) == 2 and len({one.headers["idempotency-key"] for one in site.asked}) == 1


def test_a_request_that_is_still_carried_out_is_asked_for_again(site: Site) -> None:
    """The answer to a hung-up send may come later: 409 in flight is a matter of moments, another 409 is not."""
    site.answers[RECORDS] = (409, {"code": "CT4090", "title": "a request with this key is being carried out"})
    with Client(urls=site.urls(), patience_seconds=1.5) as client, pytest.raises(Problem) as problem:
        client.send("flight", [{"n": 1}])
    assert len(site.asked) > 1 and problem.value.exit_code == Exit.CONFLICT
    assert len({one.headers["idempotency-key"] for one in site.asked}) == 1


@pytest.mark.parametrize(("status", "exit_code"), [(404, Exit.NOT_FOUND), (409, Exit.CONFLICT), (503, Exit.DEPENDENCY)])
def test_a_refusal_is_a_problem_with_the_services_words(site: Site, status: int, exit_code: Exit) -> None:
    """An RFC 9457 answer keeps its code, detail and hint, and says how the command would end."""
    said = {"code": "CT3206", "title": "the pointer has moved", "detail": "epoch 2, not 1", "hint": "look again"}
    site.answers["GET", "/v1/models/flights"] = (status, said)
    with Client(urls=site.urls()) as client, pytest.raises(Problem) as problem:
        client.model("flights")
    assert problem.value.exit_code == exit_code and problem.value.cause == "epoch 2, not 1"
    assert "CT3206" in problem.value.title and problem.value.hint == "look again"


def test_nobody_there_is_a_problem_of_the_stack() -> None:
    """A service that does not answer ends with the exit code of a missing dependency."""
    with Client(urls=dict.fromkeys(SERVICES, "http://127.0.0.1:9")) as client, pytest.raises(Problem) as problem:
        client.promote("flights", 1)
    assert problem.value.exit_code == Exit.DEPENDENCY


async def test_the_async_client_asks_the_same(site: Site) -> None:
    """The same names, awaited: predictions and loops."""
    site.answers["POST", "/v1/models/flights/predict"] = (200, {"predictions": [{"prediction": True}]})
    site.answers["GET", "/v1/loops"] = (200, {"items": []})
    async with AsyncClient(urls=site.urls()) as client:
        assert (await client.predict("flights", {"carrier": "UA"}))["predictions"]
        assert (await client.loops("flights"))["items"] == []


@pytest.mark.parametrize(
    "data", [{"n": 1}, [{"n": 1}], pa.table({"n": [1]}), pa.record_batch({"n": [1]}), pa.table({"n": [1]}).to_pandas()]
)
def test_tables_of_every_kind_become_arrow(data: Any) -> None:
    """One row given five ways is the same table."""
    assert as_table(data).to_pylist() == [{"n": 1}]


def test_what_is_no_table_is_named() -> None:
    """A number is refused with its type."""
    with pytest.raises(Problem, match="int"):
        as_table(3)


MODELS = {
    "items": [
        {
            "model": "flights",
            "pipeline": {"pipeline_version": 2},
            "champion": {"version": 3, "epoch": 4, "since": "2026-03-01T12:00:00Z"},
        }
    ]
}


def test_lists_are_columns_or_json_lines(site: Site) -> None:
    """`model ls` prints aligned columns; with --json one object per line."""
    site.answers["GET", "/v1/models"] = (200, MODELS)
    shown = ctloop(site, "model", "ls")
    assert shown.returncode == Exit.OK
    assert shown.stdout == (
        "MODEL    PIPELINE  CHAMPION  EPOCH  SINCE\nflights  2         3         4      2026-03-01T12:00:00Z\n"
    )
    as_json = ctloop(site, "model", "ls", "--json")
    assert [json.loads(line)["champion"] for line in as_json.stdout.splitlines()] == [3]


def test_datasets_are_listed(site: Site) -> None:
    """`data ls` shows what has landed."""
    row = {"dataset": "flight", "batches": 2, "rows": 10, "last_landed": None, "waiting_arrivals": 0}
    site.answers["GET", "/v1/datasets"] = (200, {"items": [row]})
    assert ctloop(site, "data", "ls").stdout.splitlines()[1].split() == ["flight", "2", "10", "-", "0"]


def test_a_loop_is_shown_hop_by_hop(site: Site) -> None:
    """Each hop on a line of its own, with its whole sentence."""
    hop = {
        "seconds": 1.25,
        "service": "training",
        "fact": "TrainingFailed",
        "sentence": "run 7: export-failed: " + "why" * 50,
    }
    site.answers["GET", "/v1/models/flights/loops/1"] = (200, {"state": "failed", "hops": [hop]})
    shown = ctloop(site, "loop", "show", "flights", "1").stdout.splitlines()
    assert shown[0].split() == ["state", "failed"]
    assert shown[1].split()[:5] == ["+", "1.25", "s", "training", "TrainingFailed"]
    assert shown[1].endswith("why" * 50)


def test_exit_codes_say_what_happened(site: Site) -> None:
    """Unknown name 3, conflict 5, wrong usage 2, nobody there 6; the four parts go to stderr, data nowhere."""
    refused = {"code": "CT3203", "title": "a gate refused this version", "detail": "flights@2: log_loss"}
    site.answers["POST", "/v1/models/flights/promote"] = (409, refused)
    for arguments, code in (
        (("model", "show", "nothing"), Exit.NOT_FOUND),
        (("model", "promote", "flights@2"), Exit.CONFLICT),
        (("why", "flights"), Exit.USAGE),
        (("no-such-command",), Exit.USAGE),
    ):
        ended = ctloop(site, *arguments)
        assert (ended.returncode, ended.stdout) == (code, ""), ended.stderr
    for part in ("error[", "cause:", "hint:", "docs:"):
        assert part in ctloop(site, "model", "promote", "flights@2").stderr
    site.url = "http://127.0.0.1:9"
    assert ctloop(site, "model", "ls").returncode == Exit.DEPENDENCY


def test_why_of_a_refused_version_is_found_by_its_run(site: Site) -> None:
    """No fact names the number of a version that was refused: the registry knows its run, the console the story."""
    run = "0b2f0c7e-5d6f-4a49-9d6c-3f0f6a1b7c55"
    site.answers["GET", "/v1/models/flights/versions/2"] = (200, {"items": [{"said": {"run_id": run}}]})
    site.answers["GET", f"/v1/why/runs/{run}/facts"] = (200, {"sentence": "REFUSED", "decision": None, "validated": []})
    for name in ("flights@2", run):
        ended = ctloop(site, "why", name)
        assert (ended.returncode, ended.stdout) == (Exit.OK, "REFUSED\n"), ended.stderr


def test_a_proposal_is_approved(site: Site) -> None:
    """By the id that why --not tells; a second time is a clear no."""
    run = "0b2f0c7e-5d6f-4a49-9d6c-3f0f6a1b7c55"
    site.answers["POST", f"/v1/decisions/{run}:approve"] = (
        202,
        {"decision_id": run, "loop_id": run, "reason": "worse"},
    )
    ended = ctloop(site, "approve", run)
    assert ended.returncode == Exit.OK and json.loads(ended.stdout)["reason"] == "worse", ended.stderr


def test_a_problem_for_machines_is_json(site: Site) -> None:
    """With --json the problem on stderr is one object with its exit code."""
    ended = ctloop(site, "model", "show", "nothing", "--json")
    assert json.loads(ended.stderr)["exit_code"] == ended.returncode == Exit.NOT_FOUND


def test_a_code_is_explained(site: Site) -> None:
    """The page every problem names; a code that is none asks for the nearest."""
    told = ctloop(site, "docs", "ct4001")
    assert told.returncode == 0 and "the body cannot be read" in told.stdout
    unknown = ctloop(site, "docs", "CT400I")
    assert unknown.returncode == Exit.NOT_FOUND and "Did you mean" in unknown.stderr


def test_help_imports_nothing_heavy() -> None:
    """`ctloop --help` shows every command without a library of numbers, HTTP or our own platform."""
    script = (
        "import sys; sys.argv = ['ctloop', '--help']\n"
        "from ctloop.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'pandas', 'pyarrow', 'httpx', 'sklearn', 'pydantic', 'stamina', 'asyncio', 'ctloop.platform'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.rstrip().endswith("HEAVY []"), done.stdout[-300:]
    names = ("check", "apply", "replay", "up", "down", "status", "logs", "send", "tail", "why", "model", "loop")
    for name in (*names, "dlq", "data", "retrain", "approve", "demo"):
        assert f"  {name} " in done.stdout, name
