"""Commands about the embedded stack: up, down, status, logs."""

import subprocess
from typing import Annotated

import typer

from ctloop.cli import show
from ctloop.problems import Exit

Json = Annotated[bool, typer.Option("--json", help="For machines.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (up, down, status, logs):
        app.command()(command)


def up(
    foreground: Annotated[bool, typer.Option("--foreground", help="Run here until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Start the embedded stack and all services; returns when they are ready."""
    import ctloop.local

    stack = ctloop.local.up(foreground=foreground, on_progress=None if as_json else told)
    show.data({"phase": stack.phase, **stack.urls}, as_json=as_json)


def told(process: object) -> None:
    """A process changed its state."""
    state, name = getattr(process, "state", ""), getattr(process, "name", "")
    seconds = getattr(process, "seconds_to_ready", None)
    if state == "ready" and seconds is not None:
        show.say(f"  ready  {name:<11} {seconds:5.1f} s  {getattr(process, 'url', '')}")
    elif state in ("backoff", "failed"):
        show.say(f"  {state}  {name}: {getattr(process, 'message', '')}")


def down() -> None:
    """Stop everything; data stays."""
    import ctloop.local

    ctloop.local.down()


def status(as_json: Json = False) -> None:
    """Every process: state, port, memory, restarts; exit 6 when the stack is not ready."""
    import ctloop.local

    found = ctloop.local.status()
    rows = [one.model_dump(mode="json") for one in found.processes]
    columns = ("name", "state", "pid", "port", "restarts", "uptime_seconds", "pss_bytes", "message")
    show.table(rows, columns, as_json=as_json)
    if not rows or not all(one.is_ready for one in found.processes):
        raise typer.Exit(int(Exit.DEPENDENCY))


def logs(
    name: Annotated[str, typer.Argument(help="A component or service.")],
    follow: Annotated[bool, typer.Option("-f", "--follow")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines")] = 50,
) -> None:
    """The log of one process."""
    import ctloop.local

    path = ctloop.local.log_path(None, name)
    subprocess.run(["tail", "-n", str(lines), *(["-f"] if follow else []), str(path)], check=False)
