"""Secrets of one installation: made once, kept in files only their owner reads, never on a command line."""

import json
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


def write_private(path: Path, text: str) -> Path:
    """Write a file that nobody else ever could read, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as body:
        body.write(text)
    fresh.replace(path)
    return path


def _kept(path: Path, make: Callable[[], str]) -> Path:
    return path if path.exists() else write_private(path, make())


class Keys:
    """The secrets' files below one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "secrets"

    def make(self, roles: Iterable[str]) -> None:
        """Make what is missing; what is there stays."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for role in ("postgres", "mlflow", *roles):
            _kept(self.postgres(role), lambda: secrets.token_urlsafe(24))
        passwords = {role: self.postgres(role).read_text() for role in roles}
        write_private(self.roles, json.dumps(passwords))
        _kept(self.s3, _s3_keys)
        _kept(self.ray, lambda: secrets.token_hex(32))

    def postgres(self, role: str) -> Path:
        """Password of one role."""
        return self.folder / f"postgres-{role}"

    @property
    def roles(self) -> Path:
        """JSON of role to password, for migrate."""
        return self.folder / "roles.json"

    @property
    def s3(self) -> Path:
        """JSON with access_key and secret_key."""
        return self.folder / "s3.json"

    @property
    def ray(self) -> Path:
        """The token of Ray's cluster."""
        return self.folder / "ray-token"


def _s3_keys() -> str:
    return json.dumps({"access_key": f"CT{secrets.token_hex(9).upper()}", "secret_key": secrets.token_urlsafe(30)})


@dataclass(frozen=True)
class S3Keys:
    """Who may use the object store."""

    access_key: str
    secret_key: str


def read_s3_keys(path: Path) -> S3Keys:
    """The keys of a JSON file with access_key and secret_key."""
    keys = json.loads(path.read_text())
    return S3Keys(keys["access_key"], keys["secret_key"])
