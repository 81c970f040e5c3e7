"""The smallest Ray head: control store and raylet, without dashboard, monitor and log monitor.

Uses Ray's private ``Node``: its public command starts 71 MB more. Pinned in the lock, and tested.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

from ctloop.local.ports import LOOPBACK

OBJECT_STORE_BYTES = 80 * 1024 * 1024
GUARD = 'read _; kill -s KILL -- "-$1"'
"""Reads until its writer, this process, is gone however it went; then ends Ray's agents, which would live on."""


def guard_group() -> subprocess.Popen[bytes]:
    """A tiny process outside our group that ends all of it when we are gone."""
    reader, _ = os.pipe()
    guard = subprocess.Popen(("sh", "-c", GUARD, "sh", str(os.getpgrp())), stdin=reader, start_new_session=True)
    os.close(reader)
    # The writer stays open, in this process alone, for as long as it lives.
    return guard


def plasma_directory(temp: Path) -> str | None:
    """None: shared memory; a folder on disk where that is too small, as in containers."""
    shared = Path("/dev/shm")  # noqa: S108  # Ray's own default
    if shared.exists() and shutil.disk_usage(shared).free > 2 * OBJECT_STORE_BYTES:
        return None
    folder = temp.parent / "objects"
    folder.mkdir(exist_ok=True)
    return str(folder)


def main() -> None:
    """``python -m ctloop.local.components.ray_head TEMP GCS NODE OBJECTS AGENT RUNTIME-ENV METRICS FIRST LAST``."""
    temp = Path(sys.argv[1])
    gcs, node_manager, objects, agent, runtime_env, metrics, first, last = map(int, sys.argv[2:])
    guard_group()

    from ray._private.node import Node
    from ray._private.parameter import RayParams

    # Without an api server there is no dashboard process; every other part is the public one.
    Node.start_api_server = lambda self, **_: None  # type: ignore[method-assign]
    node = Node(
        RayParams(
            node_ip_address=LOOPBACK,
            gcs_server_port=gcs,
            node_manager_port=node_manager,
            object_manager_port=objects,
            dashboard_agent_listen_port=agent,
            runtime_env_agent_port=runtime_env,
            metrics_export_port=metrics,
            min_worker_port=first,
            max_worker_port=last,
            num_cpus=max(2, os.cpu_count() or 1),  # shares of a machine, not a promise: a run may ask for two
            object_store_memory=OBJECT_STORE_BYTES,
            plasma_directory=plasma_directory(temp),
            temp_dir=str(temp),
            include_dashboard=False,
            include_log_monitor=False,  # pyright: ignore[reportArgumentType]  # annotated as text, a bool in truth
            no_monitor=True,
            dashboard_host=LOOPBACK,
        ),
        head=True,
        shutdown_at_exit=False,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(0.5):
        if not node.remaining_processes_alive():
            sys.stderr.write(f"a part of Ray died: {node.dead_processes()}\n")
            break
    node.kill_all_processes(check_alive=False, allow_graceful=True)
    os._exit(0 if stop.is_set() else 1)  # the guard ends what is left


if __name__ == "__main__":
    main()
