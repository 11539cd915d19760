"""`animora-train fit`: trains a version and delivers it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from animora_training.commands.console import fail, report_errors, wait_for_rank_zero
from animora_training.commands.delivery import Delivery
from animora_training.commands.options import DatabasePasswordFile, DatabaseUrl, Force, Margin, SignKey, Store
from animora_training.commands.publishing import MARGIN, open_signer
from animora_training.commands.stop_signals import StopSignals
from animora_training.commands.versions import open_model_store
from animora_training.errors import Interrupted, InvalidOption
from animora_training.modeling.config import FitConfig

if TYPE_CHECKING:
    import torch

    from animora_training.commands.single_fit import FitOptions

# A shell reports 128 + N for a program that signal N ended.
EXIT_SIGNAL = 128


class DistributedCommand(TyperCommand):
    """A command that torchrun may start in several processes with the same arguments."""

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        """See click. Rank zero prints a usage error at once; the other ranks wait first."""
        try:
            return super().make_context(*arguments, **extra)
        except (typer.Exit, typer.Abort):
            raise
        except Exception:  # a usage error: click's class or typer's, by typer's version
            wait_for_rank_zero(super().make_context("fit", [], resilient_parsing=True).params["rank"])
            raise


def fit(  # noqa: PLR0913, PLR0917  # an option a parameter
    context: typer.Context,
    database_url: DatabaseUrl,
    store: Store = "",
    database_password_file: DatabasePasswordFile = None,
    output_folder: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="Folder to write the version to. Nothing is published then, unless --store or --activate "
            "is given.",
        ),
    ] = None,
    activate: Annotated[
        bool, typer.Option("--activate", help="Make the new version the active one in the store.")
    ] = False,
    sign_key: SignKey = None,
    margin: Margin = MARGIN,
    force: Force = False,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder to keep the data, checkpoints, events and report in.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the unfinished run in --run-dir, if there is one.")
    ] = False,
    warm_start: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Start from the tables of an earlier fit: its --run-dir, which may be the same.",
        ),
    ] = None,
    compiler: Annotated[
        str,
        typer.Option(help="C compiler for native scoring code, used on CPUs; '' for TorchScript alone."),
    ] = "cc",
    device: Annotated[
        str, typer.Option(help="Device to train on: cpu, cuda or cuda:N; by default a GPU if there is one.")
    ] = "",
    processes: Annotated[
        int,
        typer.Option(min=1, help="Number of data-parallel processes to start, as torchrun does."),
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of every random choice.")] = 0,
    choices: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a hyper-parameter; may be repeated."),
    ] = None,
    world_size: Annotated[int, typer.Option(envvar="WORLD_SIZE", hidden=True)] = 1,
    rank: Annotated[int, typer.Option(envvar="RANK", hidden=True)] = 0,
    local_rank: Annotated[int, typer.Option(envvar="LOCAL_RANK", hidden=True)] = 0,
) -> None:
    """Fit NeuCF on the four views: choose the number of epochs on a hold-out, then train on all data.

    torchrun can start it too, for training on several machines:
    torchrun --nproc-per-node 2 -m animora_training fit …
    """
    if processes > 1 and world_size == 1:
        from animora_training.commands.processes import launch

        raise typer.Exit(launch(processes, sys.argv[1:]))
    from animora_training.commands.single_fit import FitOptions
    from animora_training.data.database import Database

    with report_errors(rank):
        if output_folder is not None and not activate and _from_environment(context, "store"):
            store = ""  # the variable says where to publish, not whether
        if not store and output_folder is None:
            raise InvalidOption(
                "--store or --output", "name at least one; without either the version would be lost"
            )
        if activate and not store:
            raise InvalidOption("--activate", "needs --store")
        if run_dir is None and resume:
            raise InvalidOption("--resume", "needs --run-dir")
        options = FitOptions(
            database=Database(database_url, database_password_file),
            config=FitConfig.from_choices(choices or [], seed),
            device=chosen_device(device, local_rank),
            world_size=world_size,
            run_dir=run_dir,
            resume=resume,
            warm_start=warm_start,
            compiler=compiler,
            delivery=Delivery(
                store=open_model_store(store, sign_key=sign_key) if store else None,
                folder=output_folder,
                activate=activate,
                signer=open_signer(sign_key),
                margin=margin,
                force=force,
            ),
        )
        _fit_until_signal(options)


def chosen_device(name: str, local_rank: int) -> "torch.device":
    """The device of a `--device` option; by default the GPU of this local rank, or the CPU without GPUs.

    Raises:
        InvalidOption: The device does not exist or cannot be used.
    """
    import torch

    if not name and not torch.cuda.is_available():
        return torch.device("cpu")
    if name in {"", "cuda"}:
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch without CUDA
        raise InvalidOption("device", f"{name!r} cannot be used here: cpu, cuda or cuda:N") from error
    return device


def _fit_until_signal(options: "FitOptions") -> None:
    """Runs one fit. Raises Exit with code 128 + N if signal N ended it."""
    from animora_training.commands.single_fit import run_fit

    if options.world_size > 1:
        run_fit(options, lambda: None)  # torchrun handles the signals
        return
    with StopSignals() as signals:
        try:
            run_fit(options, signals.check)
        except Interrupted as error:
            raise fail(str(error), EXIT_SIGNAL + (signals.received or 0)) from error


def _from_environment(context: typer.Context, parameter: str) -> bool:
    """Whether a parameter was given as an environment variable, not on the command line."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "ENVIRONMENT"
