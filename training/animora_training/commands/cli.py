"""The command line of `animora-train`: what its commands are called.

What takes long to import (torch, scipy, matplotlib) is imported by the commands that need it when they run:
`list`, `activate` and `rollback` are done in less time than that takes.
"""

from typing import Annotated

import typer

from animora_training.commands.evaluating import compare, evaluate
from animora_training.commands.fit import SharedCommand, fit
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
    ] = False,  # which the entrance answers, as it does without this module
) -> None:
    """Learn from likes and comments: import data, fit NeuCF, judge it, publish and activate it."""


app.add_typer(imports, name="import")
app.command(cls=SharedCommand)(fit)
app.command()(evaluate)
app.command()(compare)
app.command()(publish)
app.command()(activate)
app.command()(rollback)
app.command("list")(list_versions)
