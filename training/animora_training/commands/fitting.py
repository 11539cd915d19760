"""`animora-train fit | evaluate`: makes a version, and judges one."""

import asyncio
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from animora_artifact import (
    Artifact,
    ModelStore,
    StoreUnavailable,
    VersionNotFound,
    write_artifact,
)
from animora_training.commands.console import EXIT_USAGE, Show, fail, output, plain_errors, progress_bars
from animora_training.commands.options import DatabaseUrl, Store
from animora_training.commands.versions import open_model_store
from animora_training.data.database import connect
from animora_training.data.dataset import Dataset
from animora_training.data.reading import read_dataset
from animora_training.data.split import leave_one_out
from animora_training.errors import NothingToLearn
from animora_training.feeds.ncf_evaluation import read_held_out
from animora_training.fitting.fit import Progress
from animora_training.fitting.fit import fit as fit_version
from animora_training.fitting.verification import verify
from animora_training.judging.evaluation import TOP, Quality, UserRanks, rank_with_artifact
from animora_training.learning.config import FitConfig


def fit(
    database_url: DatabaseUrl,
    store: Store = "",
    output_folder: Annotated[
        Path | None, typer.Option("--output", help="Folder in which to write the version's folder.")
    ] = None,
    activate: Annotated[
        bool, typer.Option("--activate", help="Make it the active one in the store.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    choices: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a hyper-parameter; may be repeated."),
    ] = None,
) -> None:
    """Fit NeuCF on the four views: choose the epochs on a hold-out, then train on everything."""
    if not store and output_folder is None:
        raise fail("--store or --output: name at least one, or the version would be lost", EXIT_USAGE)
    if activate and not store:
        raise fail("--activate: needs --store", EXIT_USAGE)
    with plain_errors():
        config = FitConfig.from_choices(choices or [], seed)
        model_store = open_model_store(store) if store else None
        with progress_bars() as show:
            dataset = _read(database_url, show)
            if not config.embeddings:
                dataset = dataset.without_embeddings()

            def report(progress: Progress) -> None:
                score = "" if progress.ndcg is None else f", NDCG@{TOP} {progress.ndcg:.4f}"
                show(progress.stage, progress.epoch, progress.epochs, f"loss {progress.loss:.4f}{score}")

            fitted = fit_version(dataset, config, datetime.now(UTC), report)
        verify(fitted.artifact)
        version = fitted.artifact.manifest.version
        if output_folder is not None:
            write_artifact(fitted.artifact, output_folder / version)
        if model_store is not None:
            _publish(fitted.artifact, model_store)
            if activate:
                model_store.activate(version)
    output().print(_hold_out_table(fitted.artifact))
    output().print(f"{'activated' if activate else 'published' if store else 'wrote'} {version}")


def evaluate(
    database_url: DatabaseUrl,
    store: Store,
    version: Annotated[str, typer.Argument(help="A published version; the active one by default.")] = "",
    ncf: Annotated[
        Path | None, typer.Option(help="Rank the test pairs of this folder in the NCF text format.")
    ] = None,
) -> None:
    """Judge a published version with the network that is served, on embeddings from the views."""
    with plain_errors():
        artifact = _read_version(store, version)
        with progress_bars() as show:
            dataset = _read(database_url, show)
        if ncf is not None:
            read = read_held_out(ncf, dataset)
            ranks = rank_with_artifact(artifact, dataset, read.held_out)
            unknown = read.skipped
        else:
            rng = np.random.default_rng(0)
            held_out = leave_one_out(dataset, FitConfig().holdout_negatives, rng).held_out
            ranks, unknown = rank_with_artifact(artifact, dataset, held_out), 0
    if ncf is not None:
        output().print(_quality_table({f"NeuCF, test pairs of {ncf.name}": ranks.quality}))
        quality = ranks.quality
    else:
        output().print(_hold_out_table(artifact, {"NeuCF, on pairs it was trained on": ranks.quality}))
        quality = _recorded(artifact).get("NeuCF", ranks.quality)
    _print_counts(artifact, ranks, unknown)
    output().print(f"hr@{TOP}={quality.hit_ratio:.4f} ndcg@{TOP}={quality.ndcg:.4f}")


def _read(database_url: str, show: Show) -> Dataset:
    async def read(folder: Path) -> Dataset:
        async with connect(database_url) as connection:
            return await read_dataset(connection, folder, lambda view, rows: show(view, rows, None))

    # The arrays stay mapped, and their files on the disk, for as long as somebody has them.
    with tempfile.TemporaryDirectory(prefix="animora-data-") as folder:
        dataset = asyncio.run(read(Path(folder)))
    if not len(dataset.posts.ids):
        raise NothingToLearn("animora.posts shows no posts: is --database-url the right database?")
    return dataset


def _publish(artifact: Artifact, model_store: ModelStore) -> None:
    """Publishes, and keeps what took minutes to train where the store cannot take it."""
    try:
        model_store.publish(artifact)
    except StoreUnavailable as error:
        kept = Path(tempfile.mkdtemp(prefix="animora-version-")) / artifact.manifest.version
        write_artifact(artifact, kept)
        raise StoreUnavailable(f"--store: {error}; the version was kept: publish {kept}") from error


def _read_version(store: str, version: str) -> Artifact:
    model_store = open_model_store(store)
    chosen = version or model_store.active()
    if chosen is None:
        raise VersionNotFound(
            "the store has no active version: name one, or activate one with `animora-train activate`"
        )
    artifact = model_store.read(chosen)
    verify(artifact)
    return artifact


def _recorded(artifact: Artifact) -> dict[str, Quality]:
    """The qualities that the fit measured on its hold-out, by what was measured."""
    metrics = artifact.manifest.metrics
    prefixes = {"NeuCF": "", "popularity": "popularity_", "heuristic": "heuristic_"}
    return {
        label: Quality(metrics[f"{prefix}hr@{TOP}"], metrics[f"{prefix}ndcg@{TOP}"])
        for label, prefix in prefixes.items()
        if f"{prefix}hr@{TOP}" in metrics and f"{prefix}ndcg@{TOP}" in metrics
    }


def _hold_out_table(artifact: Artifact, others: dict[str, Quality] | None = None) -> Table:
    recorded = {f"{label}, hold-out": quality for label, quality in _recorded(artifact).items()}
    return _quality_table({**recorded, **(others or {})})


def _quality_table(qualities: dict[str, Quality]) -> Table:
    table = Table("", f"HR@{TOP}", f"NDCG@{TOP}", box=None)
    for label, quality in qualities.items():
        table.add_row(label, f"{quality.hit_ratio:.4f}", f"{quality.ndcg:.4f}")
    return table


def _print_counts(artifact: Artifact, ranks: UserRanks, unknown: int) -> None:
    output().print(
        f"{artifact.manifest.version}: {len(ranks.ranks):,} users ranked; skipped {ranks.skipped:,} whom the "
        f"model does not know and {unknown:,} whose pair the database cannot show"
    )
