"""Kafka's jars: fetched once into the user's cache, each verified against the lock file beside this module."""

import hashlib
import os
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ctloop.problems import Problem

LOCK = Path(__file__).with_name("kafka-jars.lock")
ENDPOINT = "org.apache.kafka:kafka_2.13:4.4.0+org.slf4j:slf4j-simple:2.0.17@kafka.Kafka"
AT_ONCE = 4
TRIES = 3

OnFetched = Callable[[int, int], None]


@dataclass(frozen=True)
class Jar:
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def path(self) -> Path:
        """Below the cache's repository, laid out as Maven's."""
        folder = Path(*self.group.split("."), self.artifact, self.version)
        return folder / f"{self.artifact}-{self.version}.jar"

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"


def read_lock(path: Path = LOCK) -> tuple[Jar, ...]:
    """The jars of the lock, in its order."""
    lines = (line.split() for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return tuple(_locked(coordinates, digest) for coordinates, digest in lines)


def _locked(coordinates: str, digest: str) -> Jar:
    group, artifact, version = coordinates.split(":")
    return Jar(group, artifact, version, digest.removeprefix("sha256:"))


def is_right(path: Path, sha256: str) -> bool:
    """Whether the file is there, whole and unchanged."""
    try:
        with path.open("rb") as body:
            return hashlib.file_digest(body, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def kafka_jars(cache: Path, show: "Callable[[], OnFetched] | None" = None) -> tuple[Path, ...]:
    """Every jar of Kafka, fetched where missing or not what the lock says.

    A run that was cut off goes on with the jars it lacks.

    Args:
        cache: the user's cache directory; jars lie below its ``m2``.
        show: asked, only if something must be fetched, for who is told (jars there, jars in all) after each one.

    Raises:
        Problem: CT9101, one could not be fetched, or is not the one that was locked.
    """
    jars = read_lock()
    repository = cache / "m2"
    missing = [jar for jar in jars if not is_right(repository / jar.path, jar.sha256)]
    if missing:
        with _one_at_a_time(cache):
            _fetch_all(repository, missing, len(jars), show() if show else None)
    return tuple(repository / jar.path for jar in jars)


def _fetch_all(repository: Path, missing: list[Jar], total: int, on_progress: OnFetched | None) -> None:
    done = total - len(missing)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        fetches = [pool.submit(_fetch, repository, jar) for jar in missing]
        try:
            for fetch in as_completed(fetches):
                fetch.result()
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
        finally:
            for fetch in fetches:
                fetch.cancel()


def _fetch(repository: Path, jar: Jar) -> None:
    reason = ""
    for _ in range(TRIES):
        if is_right(repository / jar.path, jar.sha256):  # another process was faster
            return
        reason = _try(repository, jar)
        if not reason:
            return
    raise Problem(
        "CT9101",
        f"{jar}: {reason}",
        f"Check the network and run it again: what is there is kept in {repository}. Without network, copy that folder"
        " from a machine that has it, or set CTLOOP_KAFKA__BOOTSTRAP to a Kafka of your own.",
    )


def _try(repository: Path, jar: Jar) -> str:
    """Fetch one jar; the reason when it failed."""
    from jgo.maven import MavenContext, PythonResolver  # slow to import, and seldom needed

    # A folder of its own: a file that is cut off never lies where a whole one is looked for.
    partial = repository.parent / "partial" / str(os.getpid())
    context = MavenContext(repo_cache=partial, resolver=PythonResolver(), timeout=30)
    try:
        fetched = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
        (partial / jar.path).unlink(missing_ok=True)
        return " ".join(str(error).split())[:300] or type(error).__name__
    if not is_right(fetched, jar.sha256):
        fetched.unlink(missing_ok=True)
        return "what arrived has another SHA-256 than the lock says"
    target = repository / jar.path
    target.parent.mkdir(parents=True, exist_ok=True)
    fetched.replace(target)
    return ""


@contextmanager
def _one_at_a_time(cache: Path) -> Generator[None]:
    import fcntl

    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "fetch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def show_progress() -> OnFetched:
    """A bar on stderr where someone looks, plain lines elsewhere."""
    if not sys.stderr.isatty():
        return _plain
    from rich.console import Console
    from rich.progress import Progress

    progress = Progress(console=Console(stderr=True), transient=True)
    progress.start()
    task = progress.add_task("Kafka's jars", total=None)

    def show(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total)
        if done == total:
            progress.stop()

    return show


def _plain(done: int, total: int) -> None:
    if done % 10 == 0 or done == total:
        sys.stderr.write(f"Kafka's jars: {done} of {total}\n")


def make_lock() -> str:
    """The lock's lines, resolved anew: for a new version of Kafka."""
    import tempfile

    import jgo
    from jgo.maven import PythonResolver

    with tempfile.TemporaryDirectory() as folder:
        os.environ["M2_REPO"] = str(Path(folder) / "m2")
        jgo.build(ENDPOINT, resolver=PythonResolver(), cache_dir=Path(folder) / "cache")
        return "\n".join(sorted(_lock_line(Path(folder) / "m2", path) for path in Path(folder).glob("m2/**/*.jar")))


def _lock_line(repository: Path, path: Path) -> str:
    *group, artifact, version, _ = path.relative_to(repository).parts
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{'.'.join(group)}:{artifact}:{version} sha256:{digest}"


if __name__ == "__main__":
    sys.stdout.write(make_lock() + "\n")
