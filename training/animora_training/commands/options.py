"""Command-line options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DatabaseUrl = Annotated[
    str,
    typer.Option(envvar="ANIMORA_DATABASE_URL", show_envvar=True, help="DSN of the PostgreSQL database."),
]
DatabasePasswordFile = Annotated[
    Path | None,
    typer.Option(
        envvar="ANIMORA_DATABASE_PASSWORD_FILE",
        show_envvar=True,
        help="File with the password of the database, read for each connection.",
    ),
]
Store = Annotated[
    str,
    typer.Option(
        envvar="ANIMORA_MODELS_STORE",
        show_envvar=True,
        help="Model store: a folder, or a file:// or s3:// URL.",
    ),
]
SignKey = Annotated[
    Path | None,
    typer.Option(
        "--sign-key",
        metavar="KEY.pem",
        help="Private key (P-256, P-384 or P-521) to sign with: versions, and ACTIVE.",
    ),
]
VerifyKey = Annotated[
    Path | None,
    typer.Option(
        "--verify-key",
        metavar="KEY.pem",
        envvar="ANIMORA_MODELS_VERIFY_KEY",
        show_envvar=True,
        help="Public key; versions that were not signed with its private key are refused.",
    ),
]
Margin = Annotated[
    float,
    typer.Option(min=0, help="By how much NDCG@10 may be below the active version's and the heuristic's."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Publish even if worse than the active version or the heuristic.")
]
# File formats of `compare --plot`.
PLOT_SUFFIXES = (".png", ".svg")


class EvaluationProtocol(StrEnum):
    """Evaluation protocol of `compare`."""

    LATEST = "latest"


class SplitKind(StrEnum):
    """Split of the database's interactions for `compare`."""

    LEAVE_ONE_OUT = "leave-one-out"
    TIME = "time"
    COLD_POSTS = "cold-posts"
