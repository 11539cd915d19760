"""A run: one fit with its data, its checkpoints, its events and its report in one folder."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from animora_artifact import (
    ArtifactError,
    Package,
    StoreUnavailable,
    read_folder,
    write_folder,
)
from animora_artifact.durability import replace_durably
from animora_training.data.arrays import explained, replacing
from animora_training.data.dataset import Dataset
from animora_training.data.folder import DESCRIPTION, describe, open_dataset
from animora_training.errors import (
    CannotWrite,
    Interrupted,
    InvalidInput,
    NotFinite,
    NothingToLearn,
    WidthMismatch,
)
from animora_training.fitting.checkpoint import Checkpoints
from animora_training.fitting.fit import SCRATCH, Fit, Progress, Surroundings, fit_among
from animora_training.fitting.record import EpochRecord, RunRecord
from animora_training.fitting.report.page import write_report
from animora_training.fitting.tensorboard import EventWriter
from animora_training.fitting.warm_start import NETWORK, Parent, keep
from animora_training.learning.config import FitConfig
from animora_training.learning.ranks import Ranks

# What comes of the data, however often it is tried: they have to be read again.
FUTILE = (NothingToLearn, NotFinite)

Read = Callable[[Path], object]
"""Reads the database into a folder of arrays."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run keeps what it needs and what it tells.

    `data/` holds the arrays that are learnt from, `checkpoint-*.pt` how far the processes are, `events/` what
    TensorBoard shows, `report.html` what the fit was, `network.npz` what a later fit can start from.
    `parent/` holds what this one starts from, where that is an earlier fit. `version/` holds the version from
    when it is made until it is delivered, beside `run.json.pending`, the fit's record, which becomes
    `run.json` when nothing is left to do.

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
    def versions(self) -> Path:
        """The folder of the version's folder, until that is delivered."""
        return self.path / "version"

    @property
    def record(self) -> Path:
        """What the fit was; there is one if nothing is left to do."""
        return self.path / "run.json"

    @property
    def pending_record(self) -> Path:
        """What the fit was, until the version is delivered."""
        return self.path / "run.json.pending"

    @property
    def checkpoints(self) -> list[Path]:
        """How far the processes are."""
        return list(self.path.glob("checkpoint-*.pt"))

    @property
    def unfinished(self) -> bool:
        """Whether there is something to go on from: data that were read to their end, and perhaps more."""
        return (self.data / DESCRIPTION).exists() and not self.record.exists()

    @property
    def lock(self) -> Path:
        """Held by the process that works in the folder."""
        return self.path / ".lock"

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
        if warm_start is None:
            shutil.rmtree(self.parent, ignore_errors=True)
        elif self.network.exists() or warm_start.resolve() != self.path.resolve():
            earlier = RunFolder(warm_start)
            keep(earlier.network, earlier.data, self.parent)
        self.discard()
        with explained(self.path):
            for file in (self.network, self.record, self.path / "report.html"):
                file.unlink(missing_ok=True)
            shutil.rmtree(self.path / "events", ignore_errors=True)

    def discard(self) -> None:
        """Removes what could be gone on from. Raises CannotWrite."""
        with explained(self.path):
            for folder in (self.data, self.versions):
                shutil.rmtree(folder, ignore_errors=True)
            for file in (*self.path.glob("checkpoint-*"), self.pending_record):
                file.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Removes what a kill has left while something was made ready."""
        for leftover in self.path.glob(f"{SCRATCH}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in self.path.glob("*.staging"):
            leftover.unlink(missing_ok=True)

    def keep_version(self, package: Package, record: RunRecord) -> Path | None:
        """Writes the version, so that its delivery can be tried again without training.

        Returns:
            The version's folder; None in a folder that is not kept.

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        if not self.kept:
            return None
        with replacing(self.pending_record) as file:
            file.write(record.to_json())
        shutil.rmtree(self.versions, ignore_errors=True)
        folder = self.versions / package.manifest.version
        try:
            write_folder(package, folder)
        except StoreUnavailable as error:
            raise CannotWrite(f"{folder}: {error}: name a --run-dir on a disk with room") from error
        return folder

    def kept_version(self) -> Package | None:
        """A version that was made and not delivered; None where there is none, or it is damaged."""
        if not self.pending_record.exists() or not self.versions.is_dir():
            return None
        for folder in self.versions.iterdir():
            with suppress(ArtifactError):
                return read_folder(folder)
        return None

    def finish(self, *, delivered: bool) -> None:
        """Says that there is nothing left to go on with: call it when it is clear where the version goes.

        Args:
            delivered: Whether the version is where it shall be; else it stays here until the next run.

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        if not self.kept:
            return
        with explained(self.record):
            replace_durably(self.pending_record, self.record)
            for file in self.path.glob("checkpoint-*"):
                file.unlink(missing_ok=True)
        if delivered:
            shutil.rmtree(self.versions, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Watch:
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


@contextmanager
def run_folder(
    path: Path | None, ranks: Ranks, warm_start: Path | None = None, *, resume: bool
) -> Iterator[RunFolder]:
    """The folder of a run, empty unless an unfinished run goes on in it; a temporary one where none is named.

    An unfinished run goes on as it began, whatever it is to start from. A run that fails before its first
    checkpoint leaves nothing to go on with, nor does one that would come to the same again.

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

    with _alone_in(folder, ranks):
        ranks.once(prepare)
        try:
            yield folder
        except Interrupted:
            raise
        except Exception as error:
            futile = isinstance(error, FUTILE) or not folder.checkpoints
            if ranks.first and futile and not folder.record.exists():
                folder.discard()
            raise


@contextmanager
def _alone_in(folder: RunFolder, ranks: Ranks) -> Iterator[None]:
    """Keeps other fits out of a folder, which is made where it is not there.

    Raises:
        InvalidInput: Another fit works in it.
        CannotWrite: It cannot be made, or may not be changed.
    """
    lock = FileLock(folder.lock, timeout=0)

    def acquire() -> None:
        with explained(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout as error:
                raise InvalidInput(
                    f"--run-dir: another fit works in {folder.path}: wait for its end, or name another folder"
                ) from error

    ranks.once(acquire)
    try:
        yield
    finally:
        lock.release()


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

    surroundings = Surroundings(
        datetime.now(UTC), device, ranks, checkpoints, on_epoch, watch.on_step, scratch=folder.path
    )
    fitted = fit_among(dataset, config, surroundings, parent)
    if fitted is not None and events is not None:
        events.close(fitted.record)
        fitted.learnt.write(folder.network)
        write_report(fitted.record, folder.path / "report.html")
    return fitted


def has_version(folder: RunFolder, config: FitConfig, ranks: Ranks) -> bool:
    """Whether an earlier process of the run has made the version, which is still to be delivered.

    Raises:
        InvalidInput: The folder's run is of another configuration.
    """
    if not ranks.once(lambda: folder.kept_version() is not None):
        return False
    parent = Parent.read(folder.parent) if folder.parent.exists() else None
    Checkpoints(folder.path, _identity(folder, config, parent), ranks).load()
    return True


def _parent(
    folder: RunFolder, config: FitConfig, dataset: Dataset, ranks: Ranks, watch: Watch
) -> Parent | None:
    """What to start from; where that cannot be, nothing, for the rest of the run.

    Raises:
        InvalidOption: The recipe is of other widths than the earlier fit's.
    """
    if not folder.parent.exists():
        return None
    parent, reason = None, ""
    try:
        parent = Parent.read(folder.parent)
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
