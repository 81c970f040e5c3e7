"""Commands that act on what runs: send, retrain, approve, dead letters."""

from typing import Annotated

import typer

from ctloop.cli import show
from ctloop.cli.asking import client

Json = Annotated[bool, typer.Option("--json", help="For machines.")]
Service = Annotated[str, typer.Argument(help="The service.")]
Number = Annotated[int, typer.Argument(help="The dead letter's number.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(send)
    app.command()(retrain)
    app.command()(approve)
    letters = typer.Typer(help="Dead letters.", no_args_is_help=True, rich_markup_mode=None)
    for name, command in (("ls", dlq_ls), ("show", dlq_show), ("replay", dlq_replay)):
        letters.command(name)(command)
    app.add_typer(letters, name="dlq")
    datasets = typer.Typer(help="Datasets.", no_args_is_help=True, rich_markup_mode=None)
    datasets.callback()(lambda: None)
    datasets.command("ls")(data_ls)
    app.add_typer(datasets, name="data")


def send(
    file: Annotated[str, typer.Argument(help="CSV, Parquet, Arrow or NDJSON; - for NDJSON on stdin.")],
    to: Annotated[str, typer.Option(help="The dataset.")],
    as_json: Json = False,
) -> None:
    """Send records, whole or in part."""
    from ctloop.tables import read_table

    receipts = client().send(to, read_table(file))
    parts = [one for answer in receipts for one in answer["receipts"]]
    show.table(parts, ("topic", "partition", "offset", "id"), as_json=as_json)


def retrain(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    reason: Annotated[str, typer.Option(help="Why.")] = "asked by a person",
) -> None:
    """Train now, whatever the policy says."""
    show.data(client().retrain(model, reason=reason), as_json=True)


def approve(
    decision: Annotated[str, typer.Argument(help="The decision's id; ctloop why MODEL --not tells it.")],
) -> None:
    """Act on a decision that autonomy held back."""
    show.data(client().approve(decision), as_json=True)


def data_ls(as_json: Json = False) -> None:
    """Every dataset that can be sent to, with what has landed."""
    rows = client().datasets()["items"]
    show.table(rows, ("dataset", "batches", "rows", "last_landed", "waiting_arrivals"), as_json=as_json)


def dlq_ls(service: Service, as_json: Json = False) -> None:
    """A service's dead letters."""
    rows = client().dead_letters(service)["items"]
    show.table(rows, ("n", "reason", "topic", "offset", "attempts", "at", "message"), as_json=as_json)


def dlq_show(service: Service, number: Number) -> None:
    """One dead letter with its bytes."""
    show.data(client().dead_letter(service, number), as_json=True)


def dlq_replay(service: Service, number: Number) -> None:
    """Hand a dead letter to its handler again, once."""
    show.data(client().replay_dead_letter(service, number), as_json=True)
