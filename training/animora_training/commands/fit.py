"""`animora-train fit`: makes a version, or one after the other."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from animora_training.commands.console import fail, let_the_first_speak, output, plain_errors
from animora_training.commands.delivery import Delivery
from animora_training.commands.options import DatabaseUrl, Force, Margin, SignKey, Store
from animora_training.commands.publishing import MARGIN, open_signer
from animora_training.commands.schedule import Ending, duration, repeat
from animora_training.commands.versions import open_model_store
from animora_training.errors import Interrupted, InvalidOption
from animora_training.modeling.config import FitConfig

if TYPE_CHECKING:
    import torch

    from animora_training.commands.single_fit import FitOptions

# What a shell says of a program that a signal has ended.
EXIT_SIGNAL = 128


class SharedCommand(TyperCommand):
    """A command that torchrun may start in several processes, with the same words."""

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        """See click; the first process says at once what is wrong with the words."""
        try:
            return super().make_context(*arguments, **extra)
        except (typer.Exit, typer.Abort):
            raise
        except Exception:  # a usage error, whose class is click's or typer's own, by typer's version
            let_the_first_speak(super().make_context("fit", [], resilient_parsing=True).params["rank"])
            raise


def fit(  # noqa: PLR0913, PLR0917  # an option a parameter
    context: typer.Context,
    database_url: DatabaseUrl,
    store: Store = "",
    output_folder: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="Folder in which to write the version; nothing is published then, unless --store or "
            "--activate is given.",
        ),
    ] = None,
    activate: Annotated[
        bool, typer.Option("--activate", help="Make it the active one in the store.")
    ] = False,
    sign_key: SignKey = None,
    margin: Margin = MARGIN,
    force: Force = False,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder for the data, checkpoints, events and report; kept.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the unfinished run in --run-dir, if there is one.")
    ] = False,
    warm_start: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The --run-dir of an earlier fit, to start from what it has learnt; may be the same.",
        ),
    ] = None,
    compiler: Annotated[
        str,
        typer.Option(help="C compiler of the code that scores in TorchScript's place on CPUs; '' for none."),
    ] = "cc",
    every: Annotated[
        str,
        typer.Option(metavar="DURATION", help="Fit for ever, so long from start to start: 90m, 24h, 7d."),
    ] = "",
    device: Annotated[
        str, typer.Option(help="Where to train: cpu, cuda or cuda:N; a GPU, where there is one, by default.")
    ] = "",
    processes: Annotated[
        int,
        typer.Option(min=1, help="Processes that share the work, as torchrun starts them."),
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of every random choice.")] = 0,
    choices: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a hyper-parameter; may be repeated."),
    ] = None,
    world_size: Annotated[int, typer.Option(envvar="WORLD_SIZE", hidden=True)] = 1,
    rank: Annotated[int, typer.Option(envvar="RANK", hidden=True)] = 0,
    local_rank: Annotated[int, typer.Option(envvar="LOCAL_RANK", hidden=True)] = 0,
) -> None:
    """Fit NeuCF on the four views: choose the epochs on a hold-out, then train on everything.

    Several processes share the work where torchrun starts them:
    torchrun --nproc-per-node 2 -m animora_training fit …
    """
    if processes > 1 and world_size == 1:
        from animora_training.commands.processes import launch

        raise typer.Exit(launch(processes, sys.argv[1:]))
    from animora_training.commands.single_fit import FitOptions

    with plain_errors(rank):
        if output_folder is not None and not activate and _from_environment(context, "store"):
            store = ""  # the variable names where to publish, and not whether to
        if not store and output_folder is None:
            raise InvalidOption("--store or --output", "name at least one, or the version would be lost")
        if activate and not store:
            raise InvalidOption("--activate", "needs --store")
        if run_dir is None and (resume or every):
            raise InvalidOption("--resume" if resume else "--every", "needs --run-dir")
        if every and world_size > 1:
            raise InvalidOption("--every", "repeats in one process; let a timer start torchrun")
        order = FitOptions(
            database_url=database_url,
            config=FitConfig.from_choices(choices or [], seed),
            device=chosen_device(device, local_rank),
            world=world_size,
            run_dir=run_dir,
            resume=resume or bool(every),
            warm_start=warm_start,
            compiler=compiler,
            delivery=Delivery(
                store=open_model_store(store) if store else None,
                folder=output_folder,
                activate=activate,
                signer=open_signer(sign_key),
                margin=margin,
                force=force,
            ),
        )
        if every:
            _fit_every(duration(every), order)
        else:
            _fit_once(order)


def chosen_device(name: str, local_rank: int) -> "torch.device":
    """The device of an option; by default this process's GPU, or the CPU where there is none.

    Raises:
        InvalidOption: There is no such device.
    """
    import torch

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


def _fit_every(seconds: float, order: "FitOptions") -> None:
    """Fits until a signal ends it, which is no failure."""
    from animora_training.commands.single_fit import fit_once

    with Ending() as ending:
        repeat(lambda: fit_once(_from_the_last(order), ending.check), seconds, ending, output())


def _fit_once(order: "FitOptions") -> None:
    """Raises Exit, with the code of its signal where one has ended it."""
    from animora_training.commands.single_fit import fit_once

    # Several processes are ended by torchrun.
    with Ending() if order.world == 1 else nullcontext() as ending:
        try:
            fit_once(order, ending.check if ending else _go_on)
        except Interrupted as error:
            number = ending.signal if ending and ending.signal else 0
            raise fail(str(error), EXIT_SIGNAL + number) from error


def _from_the_last(order: "FitOptions") -> "FitOptions":
    """The order, to start from the run that ended last in its run folder, or from what that started from."""
    from animora_training.pipeline.run_folder import RunFolder

    if order.warm_start is None or order.run_dir is None:
        return order
    last = RunFolder(order.run_dir)
    return replace(order, warm_start=last.path) if last.network.exists() or last.parent.exists() else order


def _from_environment(context: typer.Context, parameter: str) -> bool:
    """Whether a parameter was given as an environment variable, and not on the command line."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "ENVIRONMENT"


def _go_on() -> None:
    """Nobody asks for an end."""
