"""`animora-train fit`: makes a version."""

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import torch
import typer

from animora_artifact import (
    Artifact,
    ModelStore,
    StoreUnavailable,
    write_artifact,
)
from animora_training.commands.console import EXIT_USAGE, Show, fail, output, plain_errors, progress_bars
from animora_training.commands.options import DatabaseUrl, Store
from animora_training.commands.reading import read_into
from animora_training.commands.tables import hold_out_table
from animora_training.commands.versions import open_model_store
from animora_training.errors import InvalidOption
from animora_training.fitting.fit import Progress
from animora_training.fitting.record import EpochRecord
from animora_training.fitting.run import Watch, run, run_folder
from animora_training.fitting.verification import verify
from animora_training.judging.evaluation import TOP
from animora_training.learning.config import FitConfig
from animora_training.learning.ranks import ranks


def fit(  # noqa: PLR0913, PLR0917  # an option a parameter
    database_url: DatabaseUrl,
    store: Store = "",
    output_folder: Annotated[
        Path | None, typer.Option("--output", help="Folder in which to write the version's folder.")
    ] = None,
    activate: Annotated[
        bool, typer.Option("--activate", help="Make it the active one in the store.")
    ] = False,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder for the data, checkpoints, events and report; kept.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the unfinished run in --run-dir, if there is one.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="Where to train: cpu, cuda or cuda:N; a GPU, where there is one, by default.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    choices: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a hyper-parameter; may be repeated."),
    ] = None,
    world_size: Annotated[int, typer.Option(envvar="WORLD_SIZE", hidden=True)] = 1,
    local_rank: Annotated[int, typer.Option(envvar="LOCAL_RANK", hidden=True)] = 0,
) -> None:
    """Fit NeuCF on the four views: choose the epochs on a hold-out, then train on everything.

    Several processes share the work where torchrun starts them:
    torchrun --nproc-per-node 2 -m animora_training fit …
    """
    if not store and output_folder is None:
        raise fail("--store or --output: name at least one, or the version would be lost", EXIT_USAGE)
    if activate and not store:
        raise fail("--activate: needs --store", EXIT_USAGE)
    if resume and run_dir is None:
        raise fail("--resume: needs --run-dir", EXIT_USAGE)
    with plain_errors():
        config = FitConfig.from_choices(choices or [], seed)
        model_store = open_model_store(store) if store else None
        chosen = chosen_device(device, local_rank)
        with (
            ranks(world_size, chosen) as us,
            run_folder(run_dir, us, resume=resume) as folder,
            progress_bars() if us.first else nullcontext(_show_nothing) as show,
        ):
            fitted = run(folder, config, us, chosen, _watch(database_url, show))
            if fitted is None:
                return
            version = fitted.artifact.manifest.version
            try:
                verify(fitted.artifact)
                if output_folder is not None:
                    write_artifact(fitted.artifact, output_folder / version)
                if model_store is not None:
                    _publish(fitted.artifact, model_store)
                    if activate:
                        model_store.activate(version)
            finally:
                # After a kill before this line the version is made once more; one that is refused is not.
                folder.finish(fitted.record)
    output().print(hold_out_table(fitted.artifact))
    output().print(f"{'activated' if activate else 'published' if store else 'wrote'} {version}")


def chosen_device(name: str, local_rank: int) -> torch.device:
    """The device of an option; by default this process's GPU, or the CPU where there is none.

    Raises:
        InvalidOption: There is no such device.
    """
    if not name and not torch.cuda.is_available():
        return torch.device("cpu")
    if name in {"", "cuda"}:
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what PyTorch raises without CUDA
        raise InvalidOption("device", f"{name!r} cannot be used here: cpu, cuda or cuda:N") from error
    return device


def _watch(database_url: str, show: Show) -> Watch:
    def on_epoch(epoch: EpochRecord, epochs: int) -> None:
        facts = (("loss", epoch.loss), (f"NDCG@{TOP}", epoch.ndcg10))
        note = ", ".join(f"{name} {value:.4f}" for name, value in facts if value is not None)
        show(epoch.stage, epoch.epoch, epochs, note, epoch.pairs_per_second)

    def on_step(at: Progress) -> None:
        show(at.stage, at.done, at.epochs, rate=at.pairs_per_second)

    return Watch(lambda folder: read_into(database_url, folder, show), on_epoch, on_step)


def _show_nothing(
    name: str, done: float, total: int | None, note: str = "", rate: float | None = None
) -> None:
    """The progress of a process that is not the first."""


def _publish(artifact: Artifact, model_store: ModelStore) -> None:
    """Publishes, and keeps what took minutes to train where the store cannot take it."""
    try:
        model_store.publish(artifact)
    except StoreUnavailable as error:
        kept = Path(tempfile.mkdtemp(prefix="animora-version-")) / artifact.manifest.version
        write_artifact(artifact, kept)
        raise StoreUnavailable(f"--store: {error}; the version was kept: publish {kept}") from error
