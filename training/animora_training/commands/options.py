"""Options that several commands share, each also settable through the environment."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DatabaseUrl = Annotated[
    str,
    typer.Option(envvar="ANIMORA_DATABASE_URL", show_envvar=True, help="DSN of the PostgreSQL database."),
]
Store = Annotated[
    str,
    typer.Option(
        envvar="ANIMORA_MODELS_STORE", show_envvar=True, help="Folder, file:// or s3:// URL of the store."
    ),
]
SignKey = Annotated[
    Path | None,
    typer.Option("--sign-key", metavar="KEY.pem", help="Private key (P-256, P-384 or P-521) to sign with."),
]
VerifyKey = Annotated[
    Path | None,
    typer.Option(
        "--verify-key",
        metavar="KEY.pem",
        envvar="ANIMORA_MODELS_VERIFY_KEY",
        show_envvar=True,
        help="Public key; a version that was not signed with its private key is refused.",
    ),
]
Margin = Annotated[
    float,
    typer.Option(
        min=0, help="How much less NDCG@10 than the active version's and the heuristic's it may have."
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Publish even what is worse than the active version or the heuristic.")
]
# What `compare --plot` can draw.
PLOT_SUFFIXES = (".png", ".svg")


class SplitKind(StrEnum):
    """How the database's own interactions are split."""

    LEAVE_ONE_OUT = "leave-one-out"
    TIME = "time"
    COLD_POSTS = "cold-posts"
