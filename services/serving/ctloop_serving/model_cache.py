"""The disk cache of verified models: with it serving boots and answers when everything else is down."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from ctloop.events.manifest import Manifest
from ctloop.events.pointer import ChampionPointer


class CacheDamaged(Exception):
    """A file of the cache is not what was written; it is not used."""


class CachedModel(NamedTuple):
    """All that is needed to serve a version."""

    pointer: ChampionPointer
    manifest: Manifest
    onnx: bytes
    golden: bytes


class ModelCache:
    """Objects by their sha256 under ``objects``, the pointer of each model under ``champions``, sealed by a digest."""

    def __init__(self, folder: Path) -> None:
        self._objects = folder / "objects"
        self._champions = folder / "champions"

    def models(self) -> tuple[str, ...]:
        """Names of the models with a pointer here."""
        return tuple(sorted(path.stem for path in self._champions.glob("*.json"))) if self._champions.exists() else ()

    def object(self, sha256: str) -> bytes | None:
        """The bytes of this digest; None when they are not here or not these any more."""
        path = self._objects / sha256
        if not path.exists():
            return None
        body = path.read_bytes()
        return body if hashlib.sha256(body).hexdigest() == sha256 else None

    def keep_object(self, body: bytes) -> None:
        """Keep bytes under their digest."""
        _write(self._objects / hashlib.sha256(body).hexdigest(), body)

    def manifest(self, digest: str) -> Manifest | None:
        """The manifest of this digest, if it is here and still it."""
        path = self._objects / f"{digest}.manifest"
        if not path.exists():
            return None
        body = _unsealed(path.read_bytes())
        return None if body is None else Manifest.model_validate_json(body)

    def keep_manifest(self, digest: str, manifest: Manifest) -> None:
        """Keep a manifest under its digest."""
        _write(self._objects / f"{digest}.manifest", _sealed(manifest.model_dump_json().encode()))

    def keep_champion(self, pointer: ChampionPointer) -> None:
        """Make this the version to boot with; its objects must be here."""
        _write(self._champions / f"{pointer.model}.json", _sealed(pointer.model_dump_json().encode()))

    def champion(self, model: str) -> CachedModel:
        """The version to boot with.

        Raises:
            CacheDamaged: a file is missing or is not what was written.
        """
        body = _unsealed((self._champions / f"{model}.json").read_bytes())
        if body is None:
            raise CacheDamaged(f"the cached pointer of {model} is not what was written")
        pointer = ChampionPointer.model_validate_json(body)
        onnx, golden = self.object(pointer.digest), self.object(pointer.golden.sha256)
        manifest = self.manifest(pointer.pipeline_digest)
        if onnx is None or golden is None or manifest is None:
            missing = "onnx" if onnx is None else "golden" if golden is None else "manifest"
            raise CacheDamaged(f"the cached {missing} of {model} version {pointer.version} is missing or damaged")
        return CachedModel(pointer, manifest, onnx, golden)

    def said(self, model: str) -> int:
        """Epoch for which ModelDeployed was said last; 0: none."""
        path = self._champions / f"{model}.said"
        text = path.read_text() if path.exists() else ""
        return int(text) if text.isdigit() else 0

    def keep_said(self, model: str, epoch: int) -> None:
        """ModelDeployed of this epoch is on the bus."""
        _write(self._champions / f"{model}.said", str(epoch).encode())

    def referenced(self) -> set[str]:
        """Digests that the pointers on disk need."""
        digests: set[str] = set()
        for path in self._champions.glob("*.json") if self._champions.exists() else ():
            body = _unsealed(path.read_bytes())
            if body is not None:
                pointer = ChampionPointer.model_validate_json(body)
                digests |= {pointer.digest, pointer.golden.sha256, pointer.pipeline_digest}
        return digests

    def sweep(self, keep: set[str]) -> None:
        """Forget objects and manifests that are not among these digests."""
        for path in self._objects.glob("*"):
            if not path.name.startswith(".") and path.name.removesuffix(".manifest") not in keep:
                path.unlink(missing_ok=True)


def _sealed(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _unsealed(written: bytes) -> bytes | None:
    """The body, or None when it is not what was sealed."""
    seal, _, body = written.partition(b"\n")
    return body if hashlib.sha256(body).hexdigest().encode() == seal else None


def _write(path: Path, body: bytes) -> None:
    """Whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
