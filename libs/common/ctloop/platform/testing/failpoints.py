"""Named points where a test may kill, stop or fail the process; nothing happens where none is armed."""

import os
import signal

ARMED = os.environ.get("CTLOOP_FAILPOINT", "")
"""``name:action:hit``, e.g. ``consume.committed:kill:3``: at the third hit the process kills itself."""
_hits: dict[str, int] = {}


class FailpointHit(RuntimeError):
    """Raised by an armed point whose action is ``raise``."""


def failpoint(name: str) -> None:
    """A boundary between two systems: a death here must lose nothing and apply nothing twice."""
    if not ARMED:
        return
    wanted, action, at = ARMED.split(":")
    if wanted != name:
        return
    _hits[name] = _hits.get(name, 0) + 1
    if _hits[name] != int(at):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        raise FailpointHit(name)
