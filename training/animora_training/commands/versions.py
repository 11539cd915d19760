"""`animora-train publish | activate | list`: versions in a model store."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from animora_artifact import Manifest, ModelStore, open_store, read_artifact
from animora_training.commands.console import output, plain_errors
from animora_training.commands.options import Store
from animora_training.errors import InvalidOption
from animora_training.fitting.verification import verify


def publish(
    path: Annotated[Path, typer.Argument(help="Folder of a version, as `fit --output` writes it.")],
    store: Store,
) -> None:
    """Check a version and add it to a model store; it is not active yet."""
    with plain_errors():
        artifact = read_artifact(path.resolve())
        verify(artifact)
        manifest = open_model_store(store).publish(artifact)
    output().print(f"published {manifest.version}")


def activate(
    version: Annotated[str, typer.Argument(help="A published version, older ones too.")], store: Store
) -> None:
    """Make a published version the one that servers load."""
    with plain_errors():
        model_store = open_model_store(store)
        verify(model_store.read(version))
        model_store.activate(version)
    output().print(f"activated {version}")


def list_versions(
    store: Store,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")] = False,
) -> None:
    """List the versions of a model store, oldest first."""
    with plain_errors():
        model_store = open_model_store(store)
        manifests, active = model_store.versions(), model_store.active()
    if as_json:
        rows = [
            {**manifest.model_dump(mode="json", exclude={"files"}), "active": manifest.version == active}
            for manifest in manifests
        ]
        output().print_json(json.dumps(rows))
    else:
        output().print(_table(manifests, active))


def open_model_store(store: str) -> ModelStore:
    """The model store of a `--store` option.

    Raises:
        InvalidOption: It is of a kind that is not supported.
    """
    try:
        return open_store(store)
    except ValueError as error:
        raise InvalidOption("store", str(error)) from error


def _table(manifests: list[Manifest], active: str | None) -> Table:
    table = Table("", "version", "interactions", "users", "posts", "HR@10", "NDCG@10", box=None)
    for manifest in manifests:
        metrics = (manifest.metrics.get(name) for name in ("hr@10", "ndcg@10"))
        table.add_row(
            "active" if manifest.version == active else "",
            manifest.version,
            f"{manifest.data_window.interactions:,}",
            f"{manifest.dimensions.users - 1:,}",
            f"{manifest.dimensions.posts - 1:,}",
            *("-" if metric is None else f"{metric:.4f}" for metric in metrics),
        )
    return table
