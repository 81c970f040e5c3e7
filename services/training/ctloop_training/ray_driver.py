"""The worker process of training: one long-lived Ray driver, asked and answering over pipes.

A driver that lived through a restart of the head never recovers, so this one ends itself as soon as the head is gone,
and the service starts another. It ends too when its service does: then its tasks die, and run again under the next fence.
"""

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import AuthenticationError, OutOfMemoryError, RayError, WorkerCrashedError

from ctloop.events.manifest import Manifest
from ctloop_training.run_spec import Failed, Lost, Progress, Reply, Request, RunOrder, Trained, WarmOrder

HEAD_GONE = 75
"""Exit code: the head does not answer any more."""
PROBE_SECONDS = 0.4
PROBES = 2
"""Together shorter than any restart of the head."""
WAIT_SECONDS = 1.0
GET_SECONDS = 30.0

Said = Progress | Trained | Failed | Lost


def train(order: str) -> Iterator[str]:
    """The Ray task of a run; imports its libraries in the Ray worker."""
    from ctloop_training import run_task

    yield from run_task.train(RunOrder.model_validate_json(order))


def warm(order: str) -> Iterator[str]:
    """The Ray task that has a worker ready before the first run."""
    from ctloop_training import run_task

    yield from run_task.warm(WarmOrder.model_validate_json(order))


def reachable(address: str) -> bool:
    """Whether something listens at host:port."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=2):
        return True
    return False


def options(manifest: Manifest, name: str) -> dict[str, Any]:
    """The declared resources; our own attempts count, so Ray never tries again by itself."""
    asked = manifest.resources
    return {
        "num_cpus": asked.cpus,
        "num_gpus": asked.gpus,
        "memory": asked.memory_bytes,
        "max_retries": 0,
        "num_returns": "streaming",
        "name": name,
    }


class Driver:
    """Requests being worked on, each in a thread."""

    def __init__(self, address: str, replies: Any) -> None:
        self._address = address
        self._replies = replies
        self._writing = threading.Lock()
        self._running: dict[str, Any] = {}
        self._cancelled: set[str] = set()

    def say(self, id: str, message: Said) -> None:
        """One line of answer."""
        line = Reply(id=id, message=message).model_dump_json().encode() + b"\n"
        with self._writing:
            self._replies.write(line)

    def handle(self, request: Request) -> None:
        """Start or cancel."""
        if request.op == "cancel":
            self._cancelled.add(request.id)
            if (generator := self._running.get(request.id)) is not None:
                ray.cancel(generator, force=True)
        else:
            threading.Thread(target=self.follow, args=(request,), daemon=True).start()

    def follow(self, request: Request) -> None:
        """Run one task to its end and pass on what it says."""
        try:
            for message in self.messages(request):
                self.say(request.id, message)
        except OutOfMemoryError as error:
            self.say(request.id, Failed(reason="out-of-memory", message=str(error)[:2000]))
        except WorkerCrashedError as error:
            self.say(request.id, Lost(message=f"the Ray worker died: {error}"[:2000]))
        except AuthenticationError as error:  # also how a new head greets a driver of the one before
            self.say(request.id, Lost(message=f"the head knows this driver no more: {error}"[:2000]))
            os._exit(HEAD_GONE)
        except RayError as error:
            self.say(request.id, Lost(message=f"{type(error).__name__}: {error}"[:2000]))
        finally:
            self._running.pop(request.id, None)
            self._cancelled.discard(request.id)

    def submit(self, request: Request) -> Any:
        """Hand the order to Ray as JSON."""
        if request.order is not None:
            spec = request.order.spec
            chosen = options(spec.manifest, f"{spec.manifest.model}-{spec.run_id}")
            return ray.remote(train).options(**chosen).remote(request.order.model_dump_json())
        assert request.warm is not None, "a request brings one of the two"
        chosen = options(request.warm.manifest, f"{request.warm.manifest.model}-warm")
        return ray.remote(warm).options(**chosen).remote(request.warm.model_dump_json())

    def messages(self, request: Request) -> Iterator[Said]:
        """What the task yields; ends early when it is cancelled."""
        generator = self.submit(request)
        self._running[request.id] = generator
        while request.id not in self._cancelled:
            ready, _ = ray.wait([generator], timeout=WAIT_SECONDS)
            if not ready:
                continue
            try:
                text: Any = ray.get(next(generator), timeout=GET_SECONDS)
            except StopIteration:
                return
            yield Reply.model_validate({"id": request.id, "message": json.loads(text)}).message
        ray.cancel(generator, force=True)


def watch_head(address: str) -> None:
    """End this process when the head is gone for two looks in a row."""
    missed = 0
    while missed < PROBES:
        time.sleep(PROBE_SECONDS)
        missed = 0 if reachable(address) else missed + 1
    os._exit(HEAD_GONE)


def main() -> None:
    """Connect, answer requests, end with standard input."""
    address = sys.argv[1]
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # Ray and libraries print; answers have their own descriptor
    if not reachable(address):
        sys.exit(HEAD_GONE)
    ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, namespace="ctloop")
    threading.Thread(target=watch_head, args=(address,), daemon=True).start()
    driver = Driver(address, replies)
    driver.say("driver", Progress(stage="waiting"))
    for line in sys.stdin.buffer:
        driver.handle(Request.model_validate_json(line))
    os._exit(0)


if __name__ == "__main__":
    main()
