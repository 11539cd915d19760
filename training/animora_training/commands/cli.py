"""The command line of `animora-train`: what its commands are called."""

import typer

from animora_training.commands.fitting import SharedCommand, fit
from animora_training.commands.importing import app as imports
from animora_training.commands.judging import compare, evaluate
from animora_training.commands.versions import activate, list_versions, publish, rollback

app = typer.Typer(
    help="Learn from likes and comments: import data, fit NeuCF, judge it, publish and activate it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(imports, name="import")
app.command(cls=SharedCommand)(fit)
app.command()(evaluate)
app.command()(compare)
app.command()(publish)
app.command()(activate)
app.command()(rollback)
app.command("list")(list_versions)
