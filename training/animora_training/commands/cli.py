"""The commands of `animora-train`.

Modules that are slow to import (torch, scipy, matplotlib) are imported inside the commands that need them, so
that `list`, `activate` and `rollback` start fast.
"""

from typing import Annotated

import typer

from animora_training.commands.evaluating import compare, evaluate
from animora_training.commands.fit import DistributedCommand, fit
from animora_training.commands.importing import app as imports
from animora_training.commands.versions import activate, list_versions, publish, rollback

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True)
    ] = False,  # answered by run_command, before this module is imported
) -> None:
    """Train NeuCF on likes and comments: import data, fit, evaluate, publish and activate versions."""


app.add_typer(imports, name="import")
app.command(cls=DistributedCommand)(fit)
app.command()(evaluate)
app.command()(compare)
app.command()(publish)
app.command()(activate)
app.command()(rollback)
app.command("list")(list_versions)
