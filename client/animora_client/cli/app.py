"""The tree of commands."""

import typer

from animora_client.cli.bench import bench
from animora_client.cli.grouping import grouped
from animora_client.cli.health import health
from animora_client.cli.rank import rank
from animora_client.cli.timeline import timeline

app = typer.Typer(
    help="Ask an Animora server to rank posts, and measure it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local variables could show a token
)
for command in (rank, timeline, health, bench):
    app.command()(grouped(command))
