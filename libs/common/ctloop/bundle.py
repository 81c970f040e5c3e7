"""The bundle: the user's source as one deterministic zip, and a model loaded from it."""

import ast
import hashlib
import importlib.util
import io
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType

from ctloop.events.values import ObjectRef
from ctloop.fit import Model
from ctloop.problems import Problem

MOST_BYTES = 16 * 1024 * 1024
"""Of one bundle, unpacked."""

_EPOCH = (1980, 1, 1, 0, 0, 0)


def module_name(path: Path) -> str:
    """The name the file is imported by: its stem as an identifier."""
    name = re.sub(r"\W", "_", path.stem)
    return f"_{name}" if name[:1].isdigit() else name


def sources(path: Path) -> dict[str, Path]:
    """Names inside the bundle -> files: the model file and, followed transitively, the modules beside it it imports."""
    folder = path.resolve().parent
    found = {f"{module_name(path)}.py": path.resolve()}
    waiting = [path.resolve()]
    while waiting:
        for name in _imported(waiting.pop()):
            for inside, file in _beside(folder, name):
                if file not in found.values():
                    found[inside] = file
                    waiting.append(file)
    return dict(sorted(found.items()))


def _imported(file: Path) -> Iterator[str]:
    """Top-level names of the modules a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            yield from (one.name.split(".")[0] for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


def _beside(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """The module of that name beside the model file, as one file or as every source of a package."""
    if (folder / name / "__init__.py").is_file():
        for file in sorted((folder / name).rglob("*.py")):
            yield file.relative_to(folder).as_posix(), file
    elif (folder / f"{name}.py").is_file():
        yield f"{name}.py", folder / f"{name}.py"


def pack(path: Path) -> bytes:
    """The zip of a model file: the same sources give the same bytes (stored: compressed bytes depend on zlib)."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_STORED) as archive:
        for name, file in sources(path).items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, file.read_bytes())
    return body.getvalue()


def reference(body: bytes, bucket: str = "ctloop") -> ObjectRef:
    """Where a bundle is stored, named by its content."""
    sha256 = hashlib.sha256(body).hexdigest()
    return ObjectRef(uri=f"s3://{bucket}/bundles/{sha256}.zip", sha256=sha256, bytes=len(body), format="zip")


def unpack(body: bytes, into: Path) -> None:
    """Write a bundle's files below a folder.

    Raises:
        Problem: CT1009; not a zip, too large, or a name that leaves the folder.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            entries = archive.infolist()
            if sum(one.file_size for one in entries) > MOST_BYTES:
                raise Problem("CT1009", f"it unpacks to more than {MOST_BYTES} bytes")
            for entry in entries:
                target = into / _inside(entry.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(entry))
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise Problem("CT1009", f"it is not a zip: {error}") from error


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.suffix != ".py" or "\\" in name:
        raise Problem("CT1009", f"it holds {name!r}")
    return path


def load_module(file: Path, name: str) -> ModuleType:
    """Import one file under a name; modules beside it are found after everything installed."""
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # annotations and unpickling look it up
    spec.loader.exec_module(module)
    return module


def load_model(folder: Path, module: str, function: str) -> Model:
    """The model of an unpacked bundle. Runs the user's code: in a child process only.

    Raises:
        Problem: CT1007; and whatever the user's file raises.
    """
    found = getattr(load_module(folder / f"{module}.py", module), function, None)
    if not isinstance(found, Model):
        raise Problem("CT1007", f"{module}.{function} is no model")
    return found
