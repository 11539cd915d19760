"""Runs one fit: reads the database, trains, verifies and delivers the version."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from animora_artifact import (
    Artifact,
    ArtifactError,
    ArtifactRejected,
    CompiledUnusable,
    Package,
    pack,
)
from animora_artifact.verification import verify, verify_compiled
from animora_training.commands.console import ShowProgress, output, progress_bars, report_errors, show_epoch
from animora_training.commands.delivery import Delivery
from animora_training.commands.inputs import read_into
from animora_training.commands.publishing import signed
from animora_training.commands.tables import candidates_remarks, hold_out_table
from animora_training.data.database import Database
from animora_training.errors import CannotWrite, NotCompiled, WorseThanActive
from animora_training.modeling.config import FitConfig
from animora_training.modeling.process_group import process_group
from animora_training.pipeline.compilation import compile_score
from animora_training.pipeline.fit import Fit, Progress
from animora_training.pipeline.gate import compare_with_active
from animora_training.pipeline.holdout import FEWEST_UNSEEN
from animora_training.pipeline.record import EpochRecord
from animora_training.pipeline.run import FitObserver, has_version, run
from animora_training.pipeline.run_folder import RunFolder, run_folder


@dataclass(frozen=True, slots=True)
class FitOptions:
    """Options of a fit.

    Attributes:
        database: The database to read.
        config: Hyper-parameters.
        device: Device that this process trains on.
        world_size: Number of processes that share the work.
        run_dir: Run folder to keep; None for a temporary one.
        resume: Whether to resume an unfinished run in the run folder.
        warm_start: Run folder of an earlier fit to start from; None to start from scratch.
        compiler: C compiler for native scoring code; empty for none.
        delivery: Targets of the version.
    """

    database: Database
    config: FitConfig
    device: torch.device
    world_size: int
    run_dir: Path | None
    resume: bool
    warm_start: Path | None
    compiler: str
    delivery: Delivery


def run_fit(options: FitOptions, check: Callable[[], None]) -> None:
    """Reads the data, fits, verifies and delivers a version, and prints its metrics.

    Args:
        options: Options of the fit.
        check: Called often; an exception from it ends the fit, with a checkpoint if the run folder is kept.

    Raises:
        TrainingError: The fit failed, or `check` ended it.
        ArtifactError: The version could not be delivered.
        Exit: The same in a process group, after the message was printed.
    """
    with (
        process_group(options.world_size, options.device) as group,
        # Prints the error before the other processes notice that this one is gone.
        report_errors(group.rank) if group.world_size > 1 else nullcontext(),
        run_folder(options.run_dir, group, options.warm_start, resume=options.resume) as folder,
    ):
        if has_version(folder, options.config, group):
            package = folder.kept_version() if group.is_rank_zero else None
        else:
            group.on_rank_zero(options.delivery.check)
            if group.is_rank_zero and options.warm_start is not None and not folder.parent.exists():
                output().print(
                    f"{options.warm_start} holds no finished fit to start from: fitting from scratch"
                )
            with progress_bars() if group.is_rank_zero else nullcontext(_show_nothing) as show:
                fitted = run(
                    folder,
                    options.config,
                    group,
                    options.device,
                    _observer(options.database, show, check),
                )
            package = None if fitted is None else _packed(folder, fitted, options, check)
        if package is not None:
            _deliver(folder, package, options.delivery)


def _packed(folder: RunFolder, fitted: Fit, options: FitOptions, check: Callable[[], None]) -> Package:
    """Verifies, compiles and signs the version, and saves it in the run folder."""
    try:
        verify(fitted.artifact)
    except ArtifactRejected:
        folder.discard()  # a resumed fit would make the same version
        raise
    _print_metrics(fitted)
    compared = _with_comparison(fitted, options, check)
    package = signed(pack(_compiled(compared, options.compiler)), options.delivery.signer)
    folder.keep_version(package, fitted.record)
    return package


def _deliver(folder: RunFolder, package: Package, delivery: Delivery) -> None:
    try:
        delivery.deliver(package, folder.versions / package.manifest.version if folder.kept else None)
    except WorseThanActive:
        folder.network.unlink(missing_ok=True)  # no warm start from a refused version
        folder.finish(delivered=False)
        raise
    folder.finish(delivered=True)


def _with_comparison(fitted: Fit, options: FitOptions, check: Callable[[], None]) -> Artifact:
    """The version with a paired comparison with the store's active version, if there is one."""
    artifact, store = fitted.artifact, options.delivery.store
    if store is None or fitted.evaluated is None:
        return artifact
    try:
        active = store.active()
        if active is None or active == artifact.manifest.version:
            return artifact
        rival = store.read(active)
        verify(rival)
    except ArtifactError:  # the gate meets the same error and reports it
        return artifact
    with progress_bars() as show:

        def on_epoch(epoch: EpochRecord, epochs: int) -> None:
            check()
            show_epoch(show, epoch, epochs)

        difference = compare_with_active(fitted.evaluated, options.config, rival, on_epoch)
    differences = {**artifact.manifest.differences, active: difference}
    return replace(artifact, manifest=artifact.manifest.model_copy(update={"differences": differences}))


def _compiled(artifact: Artifact, compiler: str) -> Artifact:
    """The version with verified native code; without it if it cannot be compiled or fails verification."""
    if not compiler:
        return artifact
    try:
        code = compile_score(artifact.manifest.dimensions, compiler)
        verify_compiled(artifact, code)
    except (CannotWrite, NotCompiled, CompiledUnusable, ArtifactRejected) as error:
        output().print(f"no native code, TorchScript scores alone: {error}")
        return artifact
    return replace(artifact, compiled=code)


def _print_metrics(fitted: Fit) -> None:
    data = fitted.record.data
    if fitted.record.qualities:
        output().print(hold_out_table(fitted.artifact))
    elif data.dropped_users == 0:
        output().print(
            f"fewer than {FEWEST_UNSEEN} users have a new interaction since {fitted.record.parent}: "
            "nothing was held out, so nothing was measured"
        )
    for line in candidates_remarks(data.candidates, data.dropped_users):
        output().print(line, highlight=False, soft_wrap=True)


def _observer(database: Database, show: ShowProgress, check: Callable[[], None]) -> FitObserver:
    def on_read(name: str, done: float, total: int | None, note: str = "", rate: float | None = None) -> None:
        check()
        show(name, done, total, note, rate)

    def on_step(at: Progress) -> None:
        if at.done % 1:  # on_epoch reports the end of an epoch
            show(at.stage, at.done, at.epochs, rate=at.pairs_per_second)
        check()

    return FitObserver(
        lambda folder: read_into(database, folder, on_read),
        partial(show_epoch, show),
        on_step,
        lambda remark: output().print(remark, highlight=False, soft_wrap=True),
    )


def _show_nothing(
    name: str, done: float, total: int | None, note: str = "", rate: float | None = None
) -> None:
    """Progress callback of ranks other than zero."""
