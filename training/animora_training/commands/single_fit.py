"""One fit from the database to the store, as `animora-train fit` orders it."""

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
from animora_training.commands.console import ShowProgress, output, progress_bars, report_errors, show_epoch
from animora_training.commands.delivery import Delivery
from animora_training.commands.publishing import signed
from animora_training.commands.reading import read_into
from animora_training.commands.tables import candidates_remarks, hold_out_table
from animora_training.errors import CannotWrite, NotCompiled, WorseThanActive
from animora_training.modeling.config import FitConfig
from animora_training.modeling.process_group import process_group
from animora_training.pipeline.compilation import compile_score
from animora_training.pipeline.fit import Fit, Progress
from animora_training.pipeline.gate import beside_active
from animora_training.pipeline.holdout import FEWEST_UNSEEN
from animora_training.pipeline.record import EpochRecord
from animora_training.pipeline.run import FitObserver, has_version, run
from animora_training.pipeline.run_folder import RunFolder, run_folder
from animora_training.pipeline.verification import verify, verify_compiled


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What is to be fitted.

    Attributes:
        database_url: On what.
        config: How.
        device: Where this process trains.
        world_size: How many processes share the work.
        run_dir: Where the run is kept; nowhere by default.
        resume: Whether an unfinished run there goes on.
        warm_start: The folder of the run to start from, if any.
        compiler: The C compiler that makes what scores faster than TorchScript; empty for none.
        delivery: Where the version goes.
    """

    database_url: str
    config: FitConfig
    device: torch.device
    world_size: int
    run_dir: Path | None
    resume: bool
    warm_start: Path | None
    compiler: str
    delivery: Delivery


def run_fit(options: FitOptions, check: Callable[[], None]) -> None:
    """Reads, fits, verifies, delivers, and says how good it is.

    Args:
        options: What to do.
        check: Called now and then; what it raises ends the fit, with a checkpoint if the run is kept.

    Raises:
        TrainingError: The fit failed, or `check` ended it.
        ArtifactError: The version could not be delivered.
        Exit: The same, where this is one of several processes; what was wrong has been said.
    """
    with (
        process_group(options.world_size, options.device) as us,
        # Said before the others lose this process, and fail for that.
        report_errors(us.rank) if us.world > 1 else nullcontext(),
        run_folder(options.run_dir, us, options.warm_start, resume=options.resume) as folder,
    ):
        if has_version(folder, options.config, us):
            package = folder.kept_version() if us.first else None
        else:
            us.once(options.delivery.check)
            if us.first and options.warm_start is not None and not folder.parent.exists():
                output().print(
                    f"no fit has ended in {options.warm_start} yet to start from: fitting from scratch"
                )
            with progress_bars() if us.first else nullcontext(_show_nothing) as show:
                fitted = run(
                    folder, options.config, us, options.device, _observer(options.database_url, show, check)
                )
            package = None if fitted is None else _packed(folder, fitted, options, check)
        if package is not None:
            _deliver(folder, package, options.delivery)


def _packed(folder: RunFolder, fitted: Fit, options: FitOptions, check: Callable[[], None]) -> Package:
    """The version's files, checked, and kept in a run folder that is kept."""
    try:
        verify(fitted.artifact)
    except ArtifactRejected:
        folder.discard()  # the same data would make the same
        raise
    _say_how_good(fitted)
    compared = _beside_active(fitted, options, check)
    package = signed(pack(_compiled(compared, options.compiler)), options.delivery.signer)
    folder.keep_version(package, fitted.record)
    return package


def _deliver(folder: RunFolder, package: Package, delivery: Delivery) -> None:
    try:
        delivery.deliver(package, folder.versions / package.manifest.version if folder.kept else None)
    except WorseThanActive:
        folder.network.unlink(missing_ok=True)  # nothing good starts from it
        folder.finish(delivered=False)
        raise
    folder.finish(delivered=True)


def _beside_active(fitted: Fit, options: FitOptions, check: Callable[[], None]) -> Artifact:
    """The version, with what its fit has found of the store's active version, if there is one to look at."""
    artifact, store = fitted.artifact, options.delivery.store
    if store is None or fitted.evaluated is None:
        return artifact
    try:
        active = store.active()
        if active is None or active == artifact.manifest.version:
            return artifact
        rival = store.read(active)
        verify(rival)
    except ArtifactError:  # the gate meets the same, and says it
        return artifact
    with progress_bars() as show:

        def on_epoch(epoch: EpochRecord, epochs: int) -> None:
            check()
            show_epoch(show, epoch, epochs)

        difference = beside_active(fitted.evaluated, options.config, rival, on_epoch)
    differences = {**artifact.manifest.differences, active: difference}
    return replace(artifact, manifest=artifact.manifest.model_copy(update={"differences": differences}))


def _compiled(artifact: Artifact, compiler: str) -> Artifact:
    """The version with compiled code that gives what it must; without, where there is none to be had."""
    if not compiler:
        return artifact
    try:
        code = compile_score(artifact.manifest.dimensions, compiler)
        verify_compiled(artifact, code)
    except (CannotWrite, NotCompiled, CompiledUnusable, ArtifactRejected) as error:
        output().print(f"scored by TorchScript alone: {error}")
        return artifact
    return replace(artifact, compiled=code)


def _say_how_good(fitted: Fit) -> None:
    data = fitted.record.data
    if fitted.record.qualities:
        output().print(hold_out_table(fitted.artifact))
    elif data.dropped_users == 0:
        output().print(
            f"fewer than {FEWEST_UNSEEN} users have done anything new since {fitted.record.parent}: "
            "nothing was held out, so nothing was measured"
        )
    for line in candidates_remarks(data.candidates, data.dropped_users):
        output().print(line, highlight=False, soft_wrap=True)


def _observer(database_url: str, show: ShowProgress, check: Callable[[], None]) -> FitObserver:
    def on_read(name: str, done: float, total: int | None, note: str = "", rate: float | None = None) -> None:
        check()
        show(name, done, total, note, rate)

    def on_step(at: Progress) -> None:
        if at.done % 1:  # at an epoch's end there is more to tell
            show(at.stage, at.done, at.epochs, rate=at.pairs_per_second)
        check()

    return FitObserver(
        lambda folder: read_into(database_url, folder, on_read),
        partial(show_epoch, show),
        on_step,
        lambda remark: output().print(remark, highlight=False, soft_wrap=True),
    )


def _show_nothing(
    name: str, done: float, total: int | None, note: str = "", rate: float | None = None
) -> None:
    """The progress of a process that is not the first."""
