"""Commands about a model file: check, apply."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ctloop.cli import show
from ctloop.problems import Exit, Problem

File = Annotated[Path, typer.Argument(help="The model file.")]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]
KNOWN_SECONDS = 30.0
HAVE_PIPELINES = ("ingestion", "validation", "training", "registry", "monitoring", "console")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(init)
    app.command()(check)
    app.command()(apply)
    app.command()(replay)


def init(
    table: Annotated[Path, typer.Option("--from", help="CSV or Parquet.")],
    name: Annotated[Path | None, typer.Argument(help="The file to write; default: beside the table.")] = None,
    label: Annotated[str | None, typer.Option(help="Which column is predicted.")] = None,
) -> None:
    """Write a model file for a plain table, each guess as a comment."""
    from ctloop.init import init_from

    target = name or table.with_name(f"{table.stem}_model.py")
    if target.exists():
        raise Problem("CT9003", f"{target} exists already", "Give another name.")
    target.write_text(init_from(table, label))
    print(target)


def check(file: File, as_json: Json = False) -> None:
    """Check a model file: imports, types, conditions; exit 1 on findings."""
    from ctloop.compiler import check as check_file

    checked = check_file(file)
    if as_json:
        show.table([vars(one) for one in checked.findings], (), as_json=True)
    for one in () if as_json else checked.findings:
        show.say(f"{one.level}[{one.code}] {one.path}:{one.line} {one.title}: {one.cause}\n  hint: {one.hint}")
    if not checked.ok:
        raise typer.Exit(int(Exit.NO))
    for manifest in () if as_json else checked.manifests:
        learns = f"{len(manifest.record.inputs)} inputs, {manifest.metric} decides, {manifest.trials} trials"
        print(f"{manifest.model}: {manifest.task} over {manifest.record.dataset} ({learns})  {manifest.digest[:12]}")


def apply(file: File, as_json: Json = False) -> None:
    """Put every model of a file in force; returns when all services know it."""
    from ctloop.client import Client
    from ctloop.compiler import compile_file

    with Client() as client:
        for compiled in compile_file(file):
            applied = client.apply(compiled.manifest, compiled.bundle)
            wait_until_known(client, applied)
            if as_json:
                show.data(applied, as_json=True)
            else:
                word = "in force" if applied["changed"] else "was in force already"
                print(f"{applied['model']} pipeline {applied['pipeline_version']} {word}  {applied['digest'][:12]}")


def replay(
    file: File,
    table: Annotated[
        Path, typer.Argument(help="CSV, Parquet, Arrow or NDJSON with the record's columns and the label.")
    ],
    label_delay: Annotated[
        str | None, typer.Option(help="How late labels are where no column observed_at says so: 2h, 3d.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Where the PNG goes; default: beside the table.")] = None,
    why: Annotated[bool, typer.Option("--why", help="Every decision with its tree.")] = False,
    as_json: Json = False,
) -> None:
    """Run the whole policy over a table, without a stack: never retrained, weekly, ctloop, side by side."""
    from datetime import timedelta

    from ctloop import bundle
    from ctloop.compiler import compile_file
    from ctloop.fit import seconds
    from ctloop.replay import Settings
    from ctloop.replay import replay as run
    from ctloop.tables import read_table

    compiled = compile_file(file)[0]
    model = vars(bundle.load_module(file, compiled.manifest.module))[compiled.manifest.function]
    late = timedelta(seconds=seconds("label-delay", label_delay)) if label_delay else timedelta(0)
    settings = Settings(label_delay=late)
    result = run(compiled.manifest, model, read_table(table), settings, None if as_json else show.say)
    target = picture or table.with_suffix(".replay.png")
    result.picture(target)
    if as_json:
        show.data(result.to_json(), as_json=True)
        return
    print("\n".join(result.lines()))
    for decision in result.decisions if why else ():
        print("\n".join(result.why(decision)))
    print(target)


def wait_until_known(client: Any, applied: dict[str, Any]) -> None:
    """Until every service shows the digest.

    Raises:
        Problem: CT9005, a service does not show it in time.
    """
    until = time.monotonic() + KNOWN_SECONDS
    for service in HAVE_PIPELINES:
        while not _knows(client, service, applied):
            if time.monotonic() > until:
                raise Problem("CT9005", f"{service} does not know {applied['model']} after {KNOWN_SECONDS:.0f} s")
            time.sleep(0.05)


def _knows(client: Any, service: str, applied: dict[str, Any]) -> bool:
    try:
        return client.pipeline(service, applied["model"])["pipeline_version"] >= applied["pipeline_version"]
    except Problem as problem:
        if problem.exit_code is Exit.NOT_FOUND:
            return False
        raise
