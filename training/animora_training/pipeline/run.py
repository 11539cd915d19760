"""A run: one fit with data, checkpoints, TensorBoard events and report in a run folder."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from animora_training.data.dataset import Dataset
from animora_training.data.folder import describe, open_dataset
from animora_training.errors import InvalidInput, WidthMismatch
from animora_training.modeling.config import FitConfig
from animora_training.modeling.process_group import ProcessGroup
from animora_training.pipeline.checkpoint import Checkpoints
from animora_training.pipeline.fit import Fit, FitContext, Progress, fit_distributed
from animora_training.pipeline.record import EpochRecord
from animora_training.pipeline.report.page import write_report
from animora_training.pipeline.run_folder import RunFolder
from animora_training.pipeline.tensorboard import EventWriter
from animora_training.pipeline.warm_start import ParentVersion

Read = Callable[[Path], object]
"""Reads the database into a folder of arrays."""


@dataclass(frozen=True, slots=True)
class FitObserver:
    """Callbacks of a run.

    Attributes:
        read: Reads the database into a folder of arrays.
        on_epoch: Called with each epoch and the maximum number of epochs of its stage.
        on_step: Called after each step; may raise Interrupted.
        on_remark: Called on rank zero with a message for the user.
    """

    read: Read
    on_epoch: Callable[[EpochRecord, int], None]
    on_step: Callable[[Progress], None] = lambda progress: None
    on_remark: Callable[[str], None] = lambda remark: None


def run(
    folder: RunFolder, config: FitConfig, group: ProcessGroup, device: torch.device, watch: FitObserver
) -> Fit | None:
    """Reads the data, fits and writes the report. All processes of the group must call it.

    Args:
        folder: The run folder, from `run_folder`.
        config: The recipe.
        group: The processes that share the work.
        device: Device that this process trains on.
        watch: Reads the data and observes progress.

    Returns:
        The fit on rank zero, None on other ranks.

    Raises:
        DatabaseError: The database cannot be read.
        NothingToLearn: There are too few interactions.
        InvalidInput: The unfinished run in the folder has another configuration.
        InvalidOption: The parent's network has other widths than the configuration.
        Interrupted: A callback ended the fit.
        CannotWrite: The disk is full, or failed.
    """
    group.on_rank_zero(lambda: _read(folder, watch))
    dataset = open_dataset(folder.data)
    if not config.embeddings:
        dataset = dataset.without_embeddings()
    parent = _parent(folder, config, dataset, group, watch)
    checkpoints = Checkpoints(folder.path if folder.kept else None, _identity(folder, config, parent), group)
    done = checkpoints.load().epochs
    events = EventWriter(folder.path / "events", done) if group.is_rank_zero and folder.kept else None
    if not folder.kept:
        # Unlinked arrays stay mapped; after a kill nothing is left on disk.
        group.barrier()
        shutil.rmtree(folder.data, ignore_errors=True)

    def on_epoch(epoch: EpochRecord, epochs: int) -> None:
        if events is not None:
            events.epoch(epoch)
        watch.on_epoch(epoch, epochs)

    context = FitContext(
        datetime.now(UTC), device, group, checkpoints, on_epoch, watch.on_step, scratch=folder.path
    )
    fitted = fit_distributed(dataset, config, context, parent)
    if fitted is not None and events is not None:
        events.close(fitted.record)
        fitted.warm_start_state.write(folder.network)
        write_report(fitted.record, folder.path / "report.html")
    return fitted


def has_version(folder: RunFolder, config: FitConfig, group: ProcessGroup) -> bool:
    """Whether the folder holds a finished version that was not delivered yet.

    Raises:
        InvalidInput: The run in the folder has another configuration.
    """
    if not group.on_rank_zero(lambda: folder.kept_version() is not None):
        return False
    parent = ParentVersion.read(folder.parent) if folder.parent.exists() else None
    Checkpoints(folder.path, _identity(folder, config, parent), group).load()
    return True


def _parent(
    folder: RunFolder, config: FitConfig, dataset: Dataset, group: ProcessGroup, watch: FitObserver
) -> ParentVersion | None:
    """The parent version of a warm start. If it cannot be used, the run starts from scratch.

    Raises:
        InvalidOption: The recipe has other widths than the parent's network.
    """
    if not folder.parent.exists():
        return None
    parent, reason = None, ""
    try:
        parent = ParentVersion.read(folder.parent)
        parent.require_widths(dataset)
    except (InvalidInput, WidthMismatch) as error:
        reason = str(error)
    if group.any(bool(reason)):
        if group.is_rank_zero:
            watch.on_remark(f"cannot start from the earlier fit: {reason}: fitting from scratch")
            shutil.rmtree(folder.parent, ignore_errors=True)
        group.barrier()
        return None
    assert parent is not None
    parent.require_recipe(config)
    return parent


def _read(folder: RunFolder, watch: FitObserver) -> None:
    if not (folder.data / "dataset.json").exists():
        watch.read(folder.data)


def _identity(folder: RunFolder, config: FitConfig, parent: ParentVersion | None) -> str:
    """Digest of data, parent and configuration: a checkpoint resumes only with an equal one."""
    facts = {
        "data": describe(folder.data).digest,
        "parent": parent.state.version if parent else None,
        **config.hyperparameters(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
