"""Commands that ask: why, model, loop, tail; and predict."""

import json
import re
from typing import Annotated, Any

import typer

from ctloop.cli import show
from ctloop.problems import CATALOGUE, Exit, Problem, did_you_mean

RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Json = Annotated[bool, typer.Option("--json", help="For machines.")]
Model = Annotated[str, typer.Argument(help="The model's name.")]
Name = Annotated[str, typer.Argument(help="MODEL@VERSION")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(why)
    app.command()(tail)
    app.command()(docs)
    models = typer.Typer(help="Models and their versions.", no_args_is_help=True, rich_markup_mode=None)
    for name, command in (("ls", model_ls), ("show", model_show), ("promote", promote), ("rollback", rollback)):
        models.command(name)(command)
    app.add_typer(models, name="model")
    loops = typer.Typer(help="Loops: one acted decision each.", no_args_is_help=True, rich_markup_mode=None)
    loops.command("ls")(loop_ls)
    loops.command("show")(loop_show)
    app.add_typer(loops, name="loop")


def client() -> Any:
    """The SDK's client for the stack here."""
    from ctloop.client import Client

    return Client()


def split_name(name: str) -> tuple[str, int]:
    """MODEL@VERSION in parts.

    Raises:
        Problem: CT9001.
    """
    model, _, version = name.partition("@")
    if not version.isdigit():
        raise Problem("CT9001", f"{name!r} is not MODEL@VERSION", "e.g. flights@1")
    return model, int(version)


def why(
    name: Annotated[str, typer.Argument(help="MODEL@VERSION or a run's id; MODEL with --not")],
    why_not: Annotated[bool, typer.Option("--not", help="Why is it not trained now?")] = False,
    as_json: Json = False,
) -> None:
    """Why a version is what it is, or why a model is not trained now: a sentence and the tree of values."""
    if why_not:
        found = client().why_not(name)
        decision = found.get("latest")
    else:
        found = explained(name)
        decision = found.get("decision")
    if as_json:
        show.data(found, as_json=True)
        return
    print(found["sentence"])
    if decision:
        print(f"\n{decision['reason']}")
        show.tree(decision["tree"])
    for judged in found.get("validated", []):
        print(f"\ngates: {judged['verdict']}")
        for gate in judged["gates"]:
            mark = "pass" if gate["passed"] else "FAIL"
            sides = f"{show.short(gate.get('candidate'))} against {show.short(gate.get('champion'))}"
            print(f"  {mark}  {gate['name']}: {sides}  {gate.get('note', '')}")


def docs(code: Annotated[str, typer.Argument(help="As in error[CT4001].")], as_json: Json = False) -> None:
    """What a code means and what helps."""
    found = CATALOGUE.get(code.upper())
    if found is None:
        raise Problem("CT9002", f"there is no code {code!r}", did_you_mean(code.upper(), CATALOGUE))
    show.data({"code": code.upper(), "title": found.title, "help": found.help}, as_json=as_json)


def explained(name: str) -> Any:
    """Why, for MODEL@VERSION or a run's id; a version no gate let through is looked up by its run."""
    if RUN_ID.fullmatch(name):
        return client().why_run(name)
    model, version = split_name(name)
    try:
        return client().why(model, version)
    except Problem as problem:
        if problem.exit_code is not Exit.NOT_FOUND:
            raise
        judged = client().version(model, version)["items"]
        return client().why_run(judged[0]["said"]["run_id"])


def model_ls(as_json: Json = False) -> None:
    """Every applied model with its champion."""
    rows = [
        {
            "model": one["model"],
            "pipeline": one["pipeline"]["pipeline_version"],
            "champion": one["champion"] and one["champion"]["version"],
            "epoch": one["champion"] and one["champion"]["epoch"],
            "since": one["champion"] and one["champion"]["since"],
        }
        for one in client().models()["items"]
    ]
    show.table(rows, ("model", "pipeline", "champion", "epoch", "since"), as_json=as_json)


def model_show(model: Model, as_json: Json = False) -> None:
    """A model's versions with their outcome."""
    found = client().model(model)
    if as_json:
        show.data(found, as_json=True)
        return
    champion = found["champion"]
    print(f"{model}: champion {champion['version'] if champion else 'none yet'}")
    rows = [
        {"version": one["version"], "outcome": one["outcome"], "recorded_at": one["recorded_at"]}
        | {one["name"]: one["value"] for one in one["said"]["metrics"]}
        for one in found["versions"]
    ]
    columns = tuple(rows[0]) if rows else ("version", "outcome")
    show.table(rows, columns, as_json=False)


def promote(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Against a failed verdict; needs a reason.")] = False,
) -> None:
    """Make a version champion by hand."""
    model, version = split_name(name)
    show.data(client().promote(model, version, reason=reason, force=force), as_json=True)


def rollback(
    model: Model,
    to: Annotated[int | None, typer.Option(help="An earlier champion; default: the one before.")] = None,
    reason: Annotated[str, typer.Option(help="Why.")] = "asked by a person",
) -> None:
    """Go back to the champion before."""
    show.data(client().rollback(model, to=to, reason=reason), as_json=True)


def loop_ls(model: Annotated[str | None, typer.Option(help="Of one model.")] = None, as_json: Json = False) -> None:
    """Loops, newest first."""
    rows = client().loops(model)["items"]
    show.table(rows, ("model", "number", "state", "trigger", "version", "loop_id"), as_json=as_json)


def loop_show(model: Model, number: Annotated[int, typer.Argument(help="From 1.")], as_json: Json = False) -> None:
    """One loop: each hop with its time."""
    found = client().loop(model, number)
    show.data(found if as_json else {name: one for name, one in found.items() if name != "hops"}, as_json=as_json)
    for hop in () if as_json else found["hops"]:
        print(f"  +{hop['seconds']:6.2f} s  {hop['service']:<11} {hop['fact']:<16} {hop['sentence']}")


def tail(model: Annotated[str | None, typer.Option(help="Of one model.")] = None, as_json: Json = False) -> None:
    """Facts as they are said, until Ctrl-C."""
    import httpx

    from ctloop.client import service_urls

    url = service_urls().get("console", "")
    try:
        with httpx.stream(
            "GET", f"{url}/v1/stream", params={"model": model} if model else {}, timeout=httpx.Timeout(5, read=None)
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    print(line[6:] if as_json else spoken(json.loads(line[6:])), flush=True)
    except (httpx.TransportError, httpx.UnsupportedProtocol) as error:
        raise Problem("CT9004", f"the console at {url or 'no known address'}: {type(error).__name__}") from error


def spoken(fact: dict[str, Any]) -> str:
    """A fact as one line."""
    source = fact["service"]
    return f"{fact['time'][11:23]}  {source:<11} {fact['fact']:<20} {fact['sentence']}"
