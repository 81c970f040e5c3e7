"""PostgreSQL refuses to run as root: how to start it as nobody, also below a folder that only root may enter."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ctloop.problems import Problem

NOBODY = 65534
CHECK = """\
import os, sys
folder, program = sys.argv[1:]
os.chdir(folder)
if not os.access(program, os.R_OK | os.X_OK):  # PostgreSQL asks this of its own file
    sys.exit(f"{program} is not accessible")
os.execv(program, [program, "--version"])
"""


@dataclass(frozen=True)
class Unprivileged:
    """What to put before a command, and whose its files must be."""

    prefix: tuple[str, ...] = ()
    owner: int | None = None
    """None: ours already."""


def find_unprivileged(program: Path, folder: Path) -> Unprivileged:
    """The least powerful way that can load the program and enter the folder.

    Raises:
        Problem: CT9103, there is none.
    """
    if os.geteuid() != 0:
        return Unprivileged()
    reasons: list[str] = []
    for way in _ways():
        check = (*way.prefix, sys.executable, "-I", "-S", "-c", CHECK, str(folder), str(program))
        if way.owner is not None:
            give(folder, way.owner)
        ran = subprocess.run(check, capture_output=True, text=True, timeout=20, check=False)
        if ran.returncode == 0:
            return way
        reasons.append(ran.stderr.strip()[-200:])
    why = "; ".join(reasons)
    raise Problem(
        "CT9103",
        f"PostgreSQL never runs as root, and user {NOBODY} cannot enter {folder} or load {program}: {why}",
        "Run as an ordinary user, or keep the checkout and the data directory where others may enter (chmod o+x).",
    )


def _ways() -> Iterator[Unprivileged]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return
    # setpriv sets the parent's-death signal again: a change of user clears it.
    drop = (setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--pdeathsig=KILL")
    yield Unprivileged((*drop, "--inh-caps=-all", "--bounding-set=-all", "--"), NOBODY)
    # May read and enter what only root may, and nothing else: a checkout below /root. access(2) would ignore the
    # capability of a process that is not root, but for the secure bit.
    reading = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
    yield Unprivileged((*drop, "--securebits=+no_setuid_fixup", *reading, "--"), NOBODY)
    if unshare := shutil.which("unshare"):
        user = min((entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid > 0), default=1)
        mapped = (unshare, "-U", f"--map-user={user}", f"--map-group={user}", "--")
        yield Unprivileged((*mapped, setpriv, "--pdeathsig=KILL", "--"), 0)


def give(folder: Path, owner: int) -> None:
    """Make the folder and all below it the user's."""
    if folder.stat().st_uid == owner:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner, owner, follow_symlinks=False)
