"""A run: one fit with its data, its checkpoints, its events and its report in one folder."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from animora_training.data.arrays import explained
from animora_training.data.folder import describe, open_dataset
from animora_training.errors import InvalidInput, NothingToLearn
from animora_training.fitting.checkpoint import Checkpoints
from animora_training.fitting.fit import SCRATCH, Fit, Progress, Surroundings, fit_among
from animora_training.fitting.record import EpochRecord, RunRecord
from animora_training.fitting.report import write_report
from animora_training.fitting.tensorboard import EventWriter
from animora_training.fitting.warm_start import NETWORK, Parent, keep
from animora_training.learning.config import FitConfig
from animora_training.learning.ranks import Ranks

Read = Callable[[Path], object]
"""Reads the database into a folder of arrays."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run keeps what it needs and what it tells.

    `data/` holds the arrays that are learnt from, `checkpoint-*.pt` how far the processes are, `events/` what
    TensorBoard shows, `run.json` and `report.html` what the fit was, `network.npz` what a later fit can start
    from. `parent/` holds what this one starts from, where that is an earlier fit.

    Attributes:
        path: Seen by all processes.
        kept: Whether anybody will look at it later.
    """

    path: Path
    kept: bool = True

    @property
    def data(self) -> Path:
        """The arrays that are learnt from."""
        return self.path / "data"

    @property
    def network(self) -> Path:
        """What was learnt."""
        return self.path / NETWORK

    @property
    def parent(self) -> Path:
        """What is started from."""
        return self.path / "parent"

    @property
    def unfinished(self) -> bool:
        """Whether there is something to go on from."""
        return self.data.exists() and not (self.path / "run.json").exists()

    def begin(self, warm_start: Path | None) -> None:
        """Makes room for a new run.

        Cut short, it can be done again: where there is a run's network, its data are whole.

        Args:
            warm_start: The folder of the run to start from, which may be this one. Where it is this one, and
                no run has ended in it, what the run before started from is started from again, if anything.

        Raises:
            InvalidInput: Another folder holds no run that has ended.
            CannotWrite: The folder cannot be made, or may not be changed.
        """
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if warm_start is None:
            shutil.rmtree(self.parent, ignore_errors=True)
        elif self.network.exists() or warm_start.resolve() != self.path.resolve():
            earlier = RunFolder(warm_start)
            keep(earlier.network, earlier.data, self.parent)
        with explained(self.path):
            self.network.unlink(missing_ok=True)
            for name in ("data", "events"):
                shutil.rmtree(self.path / name, ignore_errors=True)
            for file in (*self.path.glob("checkpoint-*"), self.path / "run.json", self.path / "report.html"):
                file.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Removes what a kill has left while something was made ready."""
        for leftover in self.path.glob(f"{SCRATCH}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def finish(self, record: RunRecord) -> None:
        """Says that there is nothing left to go on with: call it when the version is where it shall be.

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        if not self.kept:
            return
        staging = self.path / "run.json.staging"
        with explained(staging):
            staging.write_bytes(record.to_json())
            staging.replace(self.path / "run.json")
            for file in self.path.glob("checkpoint-*"):
                file.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Watch:
    """What a run needs of whoever started it.

    Attributes:
        read: Reads the database into a folder of arrays.
        on_epoch: Told of every epoch, and how many of its stage there will be at most.
        on_step: Told of every step; it may raise Interrupted.
    """

    read: Read
    on_epoch: Callable[[EpochRecord, int], None]
    on_step: Callable[[Progress], None] = lambda progress: None


@contextmanager
def run_folder(
    path: Path | None, ranks: Ranks, warm_start: Path | None = None, *, resume: bool
) -> Iterator[RunFolder]:
    """The folder of a run, empty unless an unfinished run goes on in it; a temporary one where none is named.

    An unfinished run goes on as it began, whatever it is to start from.

    Args:
        path: Where; it is made where it is not there.
        ranks: The processes that share the work.
        warm_start: The folder of a run to start from, see `RunFolder.begin`.
        resume: Whether an unfinished run may go on.

    Raises:
        InvalidInput: There is an unfinished run, and it is not to go on; or there is none to start from.
    """
    if path is None:
        temporary = ranks.once(lambda: Path(tempfile.mkdtemp(prefix="animora-run-")))
        try:
            folder = RunFolder(temporary, kept=False)
            ranks.once(lambda: folder.begin(warm_start))
            yield folder
        finally:
            if ranks.first:
                shutil.rmtree(temporary, ignore_errors=True)
        return
    folder = RunFolder(path)

    def prepare() -> None:
        if not folder.unfinished:
            folder.begin(warm_start)
        elif not resume:
            raise InvalidInput(
                f"--run-dir: {path} holds an unfinished run: go on with --resume, or remove the folder"
            )
        folder.tidy()

    ranks.once(prepare)
    yield folder


def run(folder: RunFolder, config: FitConfig, ranks: Ranks, device: torch.device, watch: Watch) -> Fit | None:
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
        InvalidInput: The folder's run is of another configuration, or what it starts from is of no use to it.
        Interrupted: `watch` said so.
        CannotWrite: The disk is full, or failed.
    """
    ranks.once(lambda: _read(folder, watch))
    dataset = open_dataset(folder.data)
    if not config.embeddings:
        dataset = dataset.without_embeddings()
    parent = Parent.read(folder.parent) if folder.parent.exists() else None
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

    surroundings = Surroundings(
        datetime.now(UTC), device, ranks, checkpoints, on_epoch, watch.on_step, scratch=folder.path
    )
    try:
        fitted = fit_among(dataset, config, surroundings, parent)
    except NothingToLearn:
        # To go on would come to the same, until the data are read again.
        if ranks.first:
            shutil.rmtree(folder.data, ignore_errors=True)
        raise
    if fitted is not None and events is not None:
        events.close(fitted.record)
        fitted.learnt.write(folder.network)
        write_report(fitted.record, folder.path / "report.html")
    return fitted


def _read(folder: RunFolder, watch: Watch) -> None:
    if not (folder.data / "dataset.json").exists():
        watch.read(folder.data)


def _identity(folder: RunFolder, config: FitConfig, parent: Parent | None) -> str:
    """What a checkpoint must share with the run that goes on from it."""
    facts = {
        "data": describe(folder.data).digest,
        "parent": parent.learnt.version if parent else None,
        **config.hyperparameters(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
