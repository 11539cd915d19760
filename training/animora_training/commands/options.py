"""Options that several commands share, each also settable through the environment."""

from typing import Annotated

import typer

DatabaseUrl = Annotated[
    str,
    typer.Option(envvar="ANIMORA_DATABASE_URL", show_envvar=True, help="DSN of the PostgreSQL database."),
]
Store = Annotated[
    str,
    typer.Option(
        envvar="ANIMORA_MODELS_STORE", show_envvar=True, help="Folder or file:// URL of the model store."
    ),
]
