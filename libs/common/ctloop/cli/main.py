"""Entry of the command: every failure ends as a four-part problem and an exit code that means something."""

import logging
import sys

import typer

from ctloop.cli import show
from ctloop.problems import Exit, Problem

app = typer.Typer(
    name="ctloop",
    help="Continuous training closed by events. It can always tell you why.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
)


def main() -> None:
    """Run the command."""
    from ctloop.cli import asking, declaring, demo, operating, running  # register their commands

    for part in (demo, declaring, running, asking, operating):
        part.register(app)
    as_json = "--json" in sys.argv
    logging.getLogger("stamina").setLevel(logging.ERROR)  # that a request is tried again is no news
    try:
        app(standalone_mode=True)
    except Problem as problem:
        sys.exit(show.fail(problem, as_json=as_json))
    except KeyboardInterrupt:
        sys.exit(int(Exit.INTERRUPTED))
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
