"""A run: one fit with its data, its checkpoints, its events and its report in one folder."""

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
from animora_training.pipeline.fit import Fit, FitContext, Progress, fit_among
from animora_training.pipeline.record import EpochRecord
from animora_training.pipeline.report.page import write_report
from animora_training.pipeline.run_folder import RunFolder
from animora_training.pipeline.tensorboard import EventWriter
from animora_training.pipeline.warm_start import ParentVersion

Read = Callable[[Path], object]
"""Reads the database into a folder of arrays."""


@dataclass(frozen=True, slots=True)
class FitObserver:
    """What a run needs of whoever started it.

    Attributes:
        read: Reads the database into a folder of arrays.
        on_epoch: Told of every epoch, and how many of its stage there will be at most.
        on_step: Told of every step; it may raise Interrupted.
        on_remark: Told, in the first process, what the person at the keyboard should know.
    """

    read: Read
    on_epoch: Callable[[EpochRecord, int], None]
    on_step: Callable[[Progress], None] = lambda progress: None
    on_remark: Callable[[str], None] = lambda remark: None


def run(
    folder: RunFolder, config: FitConfig, ranks: ProcessGroup, device: torch.device, watch: FitObserver
) -> Fit | None:
    """Reads, fits and reports; every process of several takes part, and the first one gets the version.

    Args:
        folder: As `run_folder` gave it.
        config: The recipe.
        ranks: The processes that share the work.
        device: Where this one trains.
        watch: How to read, and who is told of the epochs.

    Raises:
        DatabaseError: The database cannot be read.
        NothingToLearn: There are too few interactions.
        InvalidInput: The folder's run is of another configuration.
        InvalidOption: What it starts from is of other widths than the configuration.
        Interrupted: `watch` said so.
        CannotWrite: The disk is full, or failed.
    """
    ranks.once(lambda: _read(folder, watch))
    dataset = open_dataset(folder.data)
    if not config.embeddings:
        dataset = dataset.without_embeddings()
    parent = _parent(folder, config, dataset, ranks, watch)
    checkpoints = Checkpoints(folder.path if folder.kept else None, _identity(folder, config, parent), ranks)
    done = checkpoints.load().epochs
    events = EventWriter(folder.path / "events", done) if ranks.first and folder.kept else None
    if not folder.kept:
        # The arrays stay mapped, and a kill leaves nothing behind.
        ranks.wait()
        shutil.rmtree(folder.data, ignore_errors=True)

    def on_epoch(epoch: EpochRecord, epochs: int) -> None:
        if events is not None:
            events.epoch(epoch)
        watch.on_epoch(epoch, epochs)

    context = FitContext(
        datetime.now(UTC), device, ranks, checkpoints, on_epoch, watch.on_step, scratch=folder.path
    )
    fitted = fit_among(dataset, config, context, parent)
    if fitted is not None and events is not None:
        events.close(fitted.record)
        fitted.learnt.write(folder.network)
        write_report(fitted.record, folder.path / "report.html")
    return fitted


def has_version(folder: RunFolder, config: FitConfig, ranks: ProcessGroup) -> bool:
    """Whether an earlier process of the run has made the version, which is still to be delivered.

    Raises:
        InvalidInput: The folder's run is of another configuration.
    """
    if not ranks.once(lambda: folder.kept_version() is not None):
        return False
    parent = ParentVersion.read(folder.parent) if folder.parent.exists() else None
    Checkpoints(folder.path, _identity(folder, config, parent), ranks).load()
    return True


def _parent(
    folder: RunFolder, config: FitConfig, dataset: Dataset, ranks: ProcessGroup, watch: FitObserver
) -> ParentVersion | None:
    """What to start from; where that cannot be, nothing, for the rest of the run.

    Raises:
        InvalidOption: The recipe is of other widths than the earlier fit's.
    """
    if not folder.parent.exists():
        return None
    parent, reason = None, ""
    try:
        parent = ParentVersion.read(folder.parent)
        parent.require_widths(dataset)
    except (InvalidInput, WidthMismatch) as error:
        reason = str(error)
    if ranks.any(bool(reason)):
        if ranks.first:
            watch.on_remark(f"cannot start from the earlier fit: {reason}: fitting from scratch")
            shutil.rmtree(folder.parent, ignore_errors=True)
        ranks.wait()
        return None
    assert parent is not None
    parent.require_recipe(config)
    return parent


def _read(folder: RunFolder, watch: FitObserver) -> None:
    if not (folder.data / "dataset.json").exists():
        watch.read(folder.data)


def _identity(folder: RunFolder, config: FitConfig, parent: ParentVersion | None) -> str:
    """What a checkpoint must share with the run that goes on from it."""
    facts = {
        "data": describe(folder.data).digest,
        "parent": parent.learnt.version if parent else None,
        **config.hyperparameters(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
