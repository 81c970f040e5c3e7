"""docker-compose.yml and the Dockerfile name only what exists, pin what they pull, and run nobody as root."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from ctloop.events.topics import SERVICES
from ctloop.platform.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
PULLED = {
    name: one
    for name, one in COMPOSE["services"].items()
    if "build" not in one and not one["image"].startswith("ctloop/")
}
OURS = {name: one for name, one in COMPOSE["services"].items() if name not in PULLED}


def setting(name: str) -> object:
    """The field an environment variable sets; KeyError when there is none."""
    model: type[BaseModel] = Settings
    *sections, last = name.removeprefix("CTLOOP_").lower().split("__")
    for section in sections:
        found = model.model_fields[section].annotation
        assert found is not None
        model = found
    return model.model_fields[last]


def test_the_file_is_valid_by_the_specification() -> None:
    """The JSON Schema of the Compose specification, as check-jsonschema carries it."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(ROOT / "docker-compose.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_is_of_the_core_profile(name: str) -> None:
    """What runs is in the core profile: others come beside it."""
    assert COMPOSE["services"][name]["profiles"] == ["core"]


@pytest.mark.parametrize("name", PULLED)
def test_what_is_pulled_is_pinned_healthy_and_not_root(name: str) -> None:
    """A version that is not latest, a health check, a user that is not root."""
    one = PULLED[name]
    assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", one["image"])
    assert one["healthcheck"]["test"]
    assert one["user"] not in ("root", "0")


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_of_ours_is_there(service: str) -> None:
    """Built from the one Dockerfile with its own lock, its secrets and a port on loopback."""
    one = OURS[service]
    assert one["build"]["args"]["SERVICE"] == service
    assert (ROOT / one["build"]["dockerfile"]).exists()
    assert (ROOT / "services" / service / "requirements.lock").exists()
    assert all(port.startswith("127.0.0.1:") for port in one["ports"])
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]


def test_every_variable_is_a_setting() -> None:
    """No CTLOOP_ variable that nobody reads, in compose or in the image."""
    names = {name for one in OURS.values() for name in one.get("environment", {}) if name.startswith("CTLOOP_")}
    names |= set(re.findall(r"CTLOOP_\w+__\w+", DOCKERFILE))
    assert names
    for name in names:
        assert setting(name) is not None


def test_every_module_that_is_run_exists() -> None:
    """python -m of something that can be found."""
    text = (ROOT / "docker-compose.yml").read_text() + DOCKERFILE
    modules = set(re.findall(r"-m\"?,? \"?(ctloop[\w.]+)", text))
    assert {"ctloop.platform.migrate", "ctloop.platform.service"} <= modules
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module


def test_secrets_are_those_the_script_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mounted secret is made by deploy/compose/make_secrets.py, once, in a folder only its owner enters."""
    script = ROOT / "deploy" / "compose" / "make_secrets.py"
    spec = importlib.util.spec_from_file_location("make_secrets", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "secrets")
    module.main()
    before = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    module.main()
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == before
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    files = {Path(one["file"]).name for one in COMPOSE["secrets"].values()}
    assert files == set(before)
    mounted = {secret for one in OURS.values() for secret in one.get("secrets", ())} | {
        secret for one in PULLED.values() for secret in one.get("secrets", ())
    }
    assert mounted == set(COMPOSE["secrets"])


def test_mounted_files_exist() -> None:
    """Bind mounts of files of this repository."""
    mounts = [
        mount for one in COMPOSE["services"].values() for mount in one.get("volumes", ()) if mount.startswith("./")
    ]
    assert mounts
    assert all((ROOT / mount.split(":")[0]).exists() for mount in mounts)


def test_the_image_runs_as_nobody_special() -> None:
    """Non-root, pinned, hash-checked."""
    assert "USER 10001:10001" in DOCKERFILE
    assert re.search(r"^ARG PYTHON=\d+\.\d+\.\d+-slim", DOCKERFILE, re.MULTILINE)
    assert "--require-hashes" in DOCKERFILE
    assert sys.version_info[:2] == (3, 11) or "python3.11" not in DOCKERFILE
