"""Where training runs."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from ctloop.local.components import probes
from ctloop.local.components.component import PYTHON, SMALL, Component, Run
from ctloop.local.ports import LOOPBACK


class Ray(Component):
    """A Ray head on loopback with a token; training uses it when it is there, nobody waits for it."""

    name = "ray"
    listens = ("ray", "ray-node-manager", "ray-object-manager", "ray-agent", "ray-runtime-env", "ray-metrics")

    tries = 6  # gives up by itself when a busy machine starts its raylet too slowly

    @property
    def address(self) -> str:
        return self.yours or f"{LOOPBACK}:{self.place.port}"

    @property
    def temp(self) -> Path:
        """Ray's own folder: its sockets allow a path of about 45 characters."""
        near = self.place.folder / "s"
        if len(str(near)) <= 45:
            return near
        digest = hashlib.sha256(str(self.place.folder).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"ctloop-{os.getuid()}-{digest}" / "s"

    def prepare(self) -> None:
        parent = self.temp.parent
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if parent.is_symlink() or parent.stat().st_uid != os.getuid():
            raise PermissionError(f"{parent} belongs to somebody else")
        parent.chmod(0o700)  # Ray makes its folder writable for everybody
        for session in self.temp.glob("session_*"):  # 3 MB for every start
            if session.is_symlink():
                session.unlink()
            else:
                shutil.rmtree(session, ignore_errors=True)

    def run(self) -> Run:
        environment = {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes 127.0.0.1 the node's address: all listen on loopback only
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.place.keys.ray),
            "RAY_USAGE_STATS_ENABLED": "0",
            **SMALL,
        }
        first, last = self.place.ports["ray-workers"], self.place.ports["ray-workers"] + 39
        ports = [str(self.place.ports[name]) for name in self.listens]
        return Run(
            (*PYTHON, "ctloop.local.components.ray_head", str(self.temp), *ports, str(first), str(last)), environment
        )

    def probe(self) -> None:
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        probes.tcp(host, int(port))
        if not self.yours:
            probes.tcp(LOOPBACK, self.place.ports["ray-node-manager"])
