"""The process of the user's function: it answers, and whatever the function does ends as a reason."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from flower_lake import GOOD, GOOD_IMPORTS, flowers, flowers_file

from ctloop.compiler import compile_file
from ctloop.events.manifest import Manifest
from ctloop_training.user_process import Launch, UserFailed, UserProcess


class Bench:
    """Starts processes of model files and asks them to fit."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.started: list[UserProcess] = []
        records, labels = flowers()
        rows = records.append_column("tall", labels.column("value"))
        self.rows = str(folder / "rows.arrow")
        with pa.ipc.new_file(self.rows, rows.schema) as writer:
            writer.write_table(rows)

    def launch(self, text: str) -> Launch:
        bundle = self.folder / "bundle"
        bundle.mkdir()
        (bundle / "flowers.py").write_text(text)
        return Launch(self.manifest, bundle)

    def start(self, text: str) -> UserProcess:
        process = UserProcess(self.launch(text))
        self.started.append(process)
        process.start()
        return process

    def fit(self, process: UserProcess, seconds: float = 60.0) -> dict[str, Any]:
        request = {
            "op": "fit", "rows": self.rows, "predict": self.rows, "outputs": str(self.folder / "outputs.arrow"),
            "params": {"C": 1.0}, "seed": 0, "classes": ["false", "true"], "export": str(self.folder),
        }  # fmt: skip
        return process.ask(request, seconds)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Of the good file; the bad ones differ in the body only."""
    path = tmp_path_factory.mktemp("file") / "flowers.py"
    path.write_text(flowers_file())
    (compiled,) = compile_file(path)
    return compiled.manifest


@pytest.fixture
def bench(tmp_path: Path, manifest: Manifest) -> Iterator[Bench]:
    made = Bench(tmp_path, manifest)
    yield made
    for process in made.started:
        process.kill()


def test_a_fit_is_answered_with_files_and_json(bench: Bench) -> None:
    """ONNX, golden answers and predictions are files; nothing else crosses."""
    process = bench.start(flowers_file())
    answer = bench.fit(process)
    assert answer["seconds"] >= 0 and answer["signature"]["classes"] == ["false", "true"]
    assert (bench.folder / "model.onnx").stat().st_size > 0
    assert process.alive and "fitting 600 rows" in process.tail()[-1]


@pytest.mark.parametrize(
    ("body", "reason", "why"),
    [
        ("    raise ValueError('no flowers today')\n", "raised", "no flowers today"),
        ("    import sys\n    sys.exit(3)\n", "raised", "SystemExit"),
        ("    return 42\n", "wrong-type", ""),
        ("    return None\n", "wrong-type", ""),
        ("    import os\n    os._exit(9)\n", "crashed", "exit code 9"),
        ("    import os, signal\n    os.kill(os.getpid(), signal.SIGSEGV)\n", "crashed", "SIGSEGV"),
        ("    x = bytearray(1 << 50)\n", "out-of-memory", "MemoryError"),
        ("    import ctloop_training\n", "raised", "ctloop_training"),
        ("    import ctloop.platform.settings\n", "raised", "not for model files"),
    ],
    ids=["raises", "exits", "int", "none", "hard-exit", "segfault", "memory", "service", "platform"],
)
def test_whatever_it_does_is_a_reason(bench: Bench, body: str, reason: str, why: str) -> None:
    """Raising, leaving, returning nonsense, crashing, eating memory, reaching for services: each is named."""
    process = bench.start(flowers_file(body))
    with pytest.raises(UserFailed) as failed:
        bench.fit(process)
    assert failed.value.reason == reason
    assert why in failed.value.message


def test_a_function_that_never_ends_is_killed(bench: Bench) -> None:
    """With everything it started, and its last lines are kept."""
    body = """    import subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("child", child.pid, flush=True)
    while True:
        time.sleep(1)
"""
    process = bench.start(flowers_file(body))
    with pytest.raises(UserFailed) as failed:
        bench.fit(process, seconds=3.0)
    assert failed.value.reason == "time-limit" and not process.alive
    child = int(failed.value.log_tail[-1].split()[-1])
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


LEAVES = """    import os, time
    if os.fork() == 0:  # a daemon: of another session, its parent is gone
        os.setsid()
        if os.fork() == 0:
            print("child", os.getpid(), flush=True)
            while True:
                time.sleep(1)
        os._exit(0)
    while True:
        time.sleep(1)
"""
FORKS = """    import os, time
    for _ in range(50):
        if os.fork() == 0:
            time.sleep(600)
    print("child", os.getpid(), flush=True)
    while True:
        time.sleep(1)
"""


@pytest.mark.parametrize("body", [LEAVES, FORKS], ids=["daemon", "fifty children"])
def test_whatever_it_forks_ends_with_it(bench: Bench, body: str) -> None:
    """At its limit; nothing it started lives on."""
    process = bench.start(flowers_file(body))
    home = f"HOME={process.folder}".encode()
    with pytest.raises(UserFailed) as failed:
        bench.fit(process, seconds=3.0)
    assert failed.value.reason == "time-limit" and any("child" in line for line in failed.value.log_tail)
    assert not [one for one in Path("/proc").glob("[0-9]*/environ") if home in environment_of(one)]


def environment_of(path: Path) -> bytes:
    """Of a process; empty once it has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_memory_that_leaks_ends_at_its_limit(bench: Bench) -> None:
    """Bit by bit, and wrapped in a handler that would go on."""
    body = """    kept = []
    while True:
        try:
            kept.append(bytearray(64 << 20))
        except MemoryError:
            kept.append("more")
            raise
"""
    resources = bench.manifest.resources.model_copy(update={"memory_bytes": 1 << 30})
    bench.manifest = bench.manifest.model_copy(update={"resources": resources})
    process = bench.start(flowers_file(body))
    with pytest.raises(UserFailed) as failed:
        bench.fit(process)
    assert failed.value.reason == "out-of-memory"


def test_it_has_no_secret_and_no_address(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment names nothing of the platform."""
    monkeypatch.setenv("CTLOOP_S3__KEYS_FILE", "/somewhere")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/elsewhere")
    body = """    import os
    found = sorted(name for name in os.environ if "CTLOOP" in name or "RAY" in name or "KEY" in name)
    raise ValueError(f"environment: {found}")
"""
    process = bench.start(flowers_file(body))
    with pytest.raises(UserFailed, match=r"environment: \[\]"):
        bench.fit(process)


def test_one_that_failed_softly_is_asked_again(bench: Bench) -> None:
    """A raised error does not cost the warm process; a new run sees only its own lines."""
    body = "    print('seen')\n    if C > 0.5:\n        raise ValueError('too much')\n" + GOOD
    process = bench.start(flowers_file(body, imports=GOOD_IMPORTS))
    with pytest.raises(UserFailed, match="too much"):
        bench.fit(process)
    process.begin_run()
    assert process.alive and process.tail() == ()
