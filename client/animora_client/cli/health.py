"""`animora-client health`: whether a server serves."""

import json as json_format
from typing import Annotated

from rich.console import Console
from typer import Exit, Option

from animora_client.cli.connecting import ServerOptions
from animora_client.cli.failures import told_plainly
from animora_client.health import Health
from animora_client.wire import SERVICE


def health(
    connection: ServerOptions,
    json: Annotated[bool, Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Ask a server whether it serves. Ends with 0 where it does, else with 1."""
    with told_plainly(connection.target), connection.client() as client:
        state = client.health()
    console = Console(highlight=False)
    if json:
        answer = {"target": connection.target, "service": SERVICE, "status": state}
        console.print_json(json_format.dumps(answer))
    else:
        color = "green" if state is Health.SERVING else "red"
        console.print(f"[{color}]{state.name}[/]  {SERVICE} at {connection.target}", soft_wrap=True)
    if state is not Health.SERVING:
        raise Exit(1)
