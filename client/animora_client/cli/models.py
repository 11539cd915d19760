"""`animora-client models list|activate`: the versions of a server's model store, on its admin port."""

import json as json_format
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from animora_client.cli.failures import print_errors_plainly
from animora_client.cli.options import AdminOptions, grouped
from animora_client.models import ModelVersion

models = typer.Typer(no_args_is_help=True, help="List and activate models, on the admin port of a server.")


def list_models(
    connection: AdminOptions,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List the versions of the model store, the newest names first."""
    found: list[ModelVersion] = []
    with print_errors_plainly(connection.target), connection.admin_client() as client:
        token = None
        while token != "":
            page = client.list_models(page_token=token or "")
            found += page.models
            token = page.next_page_token
    console = Console(highlight=False)
    if json:
        console.print_json(json_format.dumps([_as_json(model) for model in found]))
        return
    table = Table("", "version", "created", "interactions", "NDCG@10", box=None)
    for model in found:
        ndcg = model.metrics.get("ndcg@10")
        table.add_row(
            _state(model),
            model.version,
            "-" if model.created_at is None else f"{model.created_at:%Y-%m-%d %H:%M}",
            f"{model.interactions:,}",
            "-" if ndcg is None else f"{ndcg:.4f}",
        )
    console.print(table)


def activate(
    version: Annotated[str, typer.Argument(help="The version; it may be an older one.")],
    connection: AdminOptions,
    expected: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help='Activate only if this version is still active; "" for none.'),
    ] = None,
) -> None:
    """Make a version the active one, and wait until the server serves it."""
    with print_errors_plainly(connection.target), connection.admin_client() as client:
        model = client.activate_model(version, expected=expected)
    Console(highlight=False).print(
        f"{model.version} is active, and served by {connection.target}", soft_wrap=True
    )


models.command("list")(grouped(list_models))
models.command("activate")(grouped(activate))


def _state(model: ModelVersion) -> str:
    if model.refused:
        return f"refused: {model.refused}"
    states = {
        "active": model.active,
        "serving": model.serving,
        "resident": model.resident and not model.serving,
    }
    return ", ".join(name for name, holds in states.items() if holds)


def _as_json(model: ModelVersion) -> dict[str, object]:
    created = None if model.created_at is None else model.created_at.isoformat()
    return asdict(model) | {"created_at": created}
