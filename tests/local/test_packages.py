"""Kafka's jars are those of the lock."""

from pathlib import Path

import pytest

from ctloop.local.packages import is_right, kafka_jars, read_lock
from ctloop.local.settings import LocalSettings
from ctloop.problems import Problem


def copy_of_cache(folder: Path) -> Path:
    """The user's cache, its jars linked: filled by whoever needed Kafka first."""
    jars = kafka_jars(LocalSettings().cache)
    for jar, locked in zip(jars, read_lock(), strict=True):
        target = folder / "m2" / locked.path
        target.parent.mkdir(parents=True)
        target.symlink_to(jar)
    return folder


def test_the_lock_names_every_jar_once() -> None:
    """Kafka and its logger are there, each jar once, and no server is named."""
    jars = read_lock()
    names = {f"{jar.artifact}:{jar.version}" for jar in jars}
    assert {"kafka_2.13:4.4.0", "kafka-clients:4.4.0", "slf4j-simple:2.0.17"} <= names
    assert len(names) == len(jars) == 45
    assert all(len(jar.sha256) == 64 for jar in jars)


def test_a_corrupted_jar_is_fetched_again(tmp_path: Path) -> None:
    """A jar with another SHA-256 is replaced by the locked one; the others are not fetched again."""
    cache = copy_of_cache(tmp_path)
    jar = next(jar for jar in read_lock() if jar.artifact == "jspecify")
    path = cache / "m2" / jar.path
    path.unlink()
    path.write_bytes(b"not the jar")
    fetched: list[tuple[int, int]] = []
    kafka_jars(cache, lambda: lambda done, total: fetched.append((done, total)))
    assert is_right(path, jar.sha256)
    assert fetched == [(45, 45)]


def test_a_jar_that_cannot_be_fetched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the message says which jar, where to put it, and how to use a Kafka of one's own."""
    cache = copy_of_cache(tmp_path)
    jar = next(jar for jar in read_lock() if jar.artifact == "jspecify")
    (cache / "m2" / jar.path).unlink()
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(Problem) as raised:
        kafka_jars(cache)
    assert raised.value.code == "CT9101"
    assert "org.jspecify:jspecify:1.0.0" in raised.value.cause
    assert "CTLOOP_KAFKA__BOOTSTRAP" in raised.value.hint
