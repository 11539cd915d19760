"""The tree of commands."""

from typing import Annotated

import typer

from animora_client.cli.bench import bench
from animora_client.cli.grouping import grouped
from animora_client.cli.health import health
from animora_client.cli.rank import rank
from animora_client.cli.timeline import timeline

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local variables could show a token
)


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True)
    ] = False,  # which the entrance answers, as it does without this module
) -> None:
    """Ask an Animora server to rank posts, and measure it."""


for command in (rank, timeline, health, bench):
    app.command()(grouped(command))
