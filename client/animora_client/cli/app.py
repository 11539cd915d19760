"""The root of the command line, and the command `health`."""

import json as json_format
from typing import Annotated

import typer
from rich.console import Console

from animora_client.cli.bench import bench
from animora_client.cli.failures import print_errors_plainly
from animora_client.cli.models import models
from animora_client.cli.options import ServerOptions, grouped
from animora_client.cli.rank import rank
from animora_client.cli.timeline import timeline
from animora_client.ranking import Health
from animora_client.wire import SERVICE

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local variables could show a token
)


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,  # handled by animora_process.entry_point, even without the extra
) -> None:
    """Rank posts with an Animora server, and measure the server."""


def health(
    connection: ServerOptions,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Check the health of a server. The exit status is 0 if it serves, else 1."""
    with print_errors_plainly(connection.target), connection.client() as client:
        state = client.health()
    console = Console(highlight=False)
    if json:
        answer = {"target": connection.target, "service": SERVICE, "status": state}
        console.print_json(json_format.dumps(answer))
    else:
        color = "green" if state is Health.SERVING else "red"
        console.print(f"[{color}]{state.name}[/]  {SERVICE} at {connection.target}", soft_wrap=True)
    if state is not Health.SERVING:
        raise typer.Exit(1)


app.add_typer(models, name="models")
for command in (rank, timeline, health, bench):
    app.command()(grouped(command))
