"""The run folder: data, checkpoints, events, version and report of one fit."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from animora_artifact import (
    ArtifactError,
    Package,
    StoreUnavailable,
    read_folder,
    write_folder,
)
from animora_artifact.durability import replace_durably
from animora_training.data.arrays import explain_write_errors, make_temporary_folder, replace_file
from animora_training.data.folder import DESCRIPTION
from animora_training.errors import (
    CannotWrite,
    Interrupted,
    InvalidInput,
    NotFinite,
    NothingToLearn,
)
from animora_training.modeling.process_group import ProcessGroup
from animora_training.pipeline.fit import SCRATCH
from animora_training.pipeline.record import RunRecord
from animora_training.pipeline.warm_start import NETWORK, copy_warm_start_files

# Errors that the same data would cause again; the data are discarded so that a retry reads them again.
FUTILE = (NothingToLearn, NotFinite)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of a run.

    * `data/`: the arrays of the data set.
    * `checkpoint-*.pt`: checkpoints, one for each process.
    * `events/`: TensorBoard events.
    * `report.html`: the report.
    * `network.npz`: the state from which a later fit can warm-start.
    * `parent/`: the state of the earlier fit, in a warm start.
    * `version/`: the version, until it is delivered.
    * `run.json.pending`: the record, renamed to `run.json` when the run is finished.

    Attributes:
        path: The folder, the same for all processes.
        kept: False for a temporary folder.
    """

    path: Path
    kept: bool = True

    @property
    def data(self) -> Path:
        """Folder of the data set's arrays."""
        return self.path / "data"

    @property
    def network(self) -> Path:
        """State from which a later fit can warm-start."""
        return self.path / NETWORK

    @property
    def parent(self) -> Path:
        """State of the earlier fit that this one starts from."""
        return self.path / "parent"

    @property
    def versions(self) -> Path:
        """Parent folder of the version's folder, until the version is delivered."""
        return self.path / "version"

    @property
    def record(self) -> Path:
        """Record of a finished run."""
        return self.path / "run.json"

    @property
    def pending_record(self) -> Path:
        """Record of a fit whose version is not delivered yet."""
        return self.path / "run.json.pending"

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoint files of all processes."""
        return list(self.path.glob("checkpoint-*.pt"))

    @property
    def unfinished(self) -> bool:
        """Whether a run can be resumed: its data are complete, and it is not finished."""
        return (self.data / DESCRIPTION).exists() and not self.record.exists()

    @property
    def lock(self) -> Path:
        """Lock file, held while a fit uses the folder."""
        return self.path / ".lock"

    def begin(self, warm_start: Path | None) -> None:
        """Prepares the folder for a new run. Safe to repeat after a kill.

        Args:
            warm_start: Run folder to start from; it may be this one. If it is this one and holds no finished
                run, the parent of the previous run is used again, if there is one.

        Raises:
            InvalidInput: The other folder holds no finished run.
            CannotWrite: The folder cannot be created or changed.
        """
        if warm_start is None:
            shutil.rmtree(self.parent, ignore_errors=True)
        elif self.network.exists() or warm_start.resolve() != self.path.resolve():
            earlier = RunFolder(warm_start)
            copy_warm_start_files(earlier.network, earlier.data, self.parent)
        self.discard()
        with explain_write_errors(self.path):
            for file in (self.network, self.record, self.path / "report.html"):
                file.unlink(missing_ok=True)
            shutil.rmtree(self.path / "events", ignore_errors=True)

    def discard(self) -> None:
        """Removes data, checkpoints and version, so that nothing can be resumed. Raises CannotWrite."""
        with explain_write_errors(self.path):
            for folder in (self.data, self.versions):
                shutil.rmtree(folder, ignore_errors=True)
            for file in (*self.path.glob("checkpoint-*"), self.pending_record):
                file.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Removes unfinished files that a killed process left."""
        for leftover in self.path.glob(f"{SCRATCH}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in self.path.glob("*.staging"):
            leftover.unlink(missing_ok=True)

    def keep_version(self, package: Package, record: RunRecord) -> Path | None:
        """Writes version and record, so that a failed delivery can be repeated without training.

        Returns:
            The folder of the version; None in a temporary run folder.

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        if not self.kept:
            return None
        with replace_file(self.pending_record) as file:
            file.write(record.to_json())
        shutil.rmtree(self.versions, ignore_errors=True)
        folder = self.versions / package.manifest.version
        try:
            write_folder(package, folder)
        except StoreUnavailable as error:
            raise CannotWrite(f"{folder}: {error}: name a --run-dir on a disk with room") from error
        return folder

    def kept_version(self) -> Package | None:
        """The version that is not delivered yet; None without one, or if it is damaged."""
        if not self.pending_record.exists() or not self.versions.is_dir():
            return None
        for folder in self.versions.iterdir():
            with suppress(ArtifactError):
                return read_folder(folder)
        return None

    def finish(self, *, delivered: bool) -> None:
        """Marks the run as finished and removes its checkpoints.

        Args:
            delivered: Whether the version was delivered; otherwise it stays here until the next run.

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        if not self.kept:
            return
        with explain_write_errors(self.record):
            replace_durably(self.pending_record, self.record)
            for file in self.path.glob("checkpoint-*"):
                file.unlink(missing_ok=True)
        if delivered:
            shutil.rmtree(self.versions, ignore_errors=True)


@contextmanager
def run_folder(
    path: Path | None, group: ProcessGroup, warm_start: Path | None = None, *, resume: bool
) -> Iterator[RunFolder]:
    """Opens and locks a run folder, for a new run or to resume an unfinished one.

    A resumed run ignores `warm_start`: it keeps the parent that it began with. A run that fails before its
    first checkpoint, or with an error that its data would cause again, cannot be resumed.

    Args:
        path: The folder, created if missing; None for a temporary one.
        group: The processes that share the work.
        warm_start: Run folder to start from, see `RunFolder.begin`.
        resume: Whether an unfinished run may be resumed.

    Raises:
        InvalidInput: The folder holds an unfinished run and `resume` is false, or another fit uses it, or the
            folder to start from holds no finished run.
        CannotWrite: The folder cannot be created or changed.
    """
    if path is None:
        temporary = group.on_rank_zero(lambda: make_temporary_folder("animora-run-"))
        try:
            folder = RunFolder(temporary, kept=False)
            group.on_rank_zero(lambda: folder.begin(warm_start))
            yield folder
        finally:
            if group.is_rank_zero:
                shutil.rmtree(temporary, ignore_errors=True)
        return
    folder = RunFolder(path)

    def prepare() -> None:
        if not folder.unfinished:
            folder.begin(warm_start)
        elif not resume:
            raise InvalidInput(
                f"--run-dir: {path} holds an unfinished run: continue it with --resume, or remove the folder"
            )
        folder.tidy()

    with _exclusive(folder, group):
        group.on_rank_zero(prepare)
        try:
            yield folder
        except Interrupted:
            raise
        except Exception as error:
            futile = isinstance(error, FUTILE) or not folder.checkpoints
            if group.is_rank_zero and futile and not folder.record.exists():
                folder.discard()
            raise


@contextmanager
def _exclusive(folder: RunFolder, group: ProcessGroup) -> Iterator[None]:
    """Locks a folder against other fits; creates it if missing.

    Raises:
        InvalidInput: Another fit uses the folder.
        CannotWrite: The folder cannot be created or changed.
    """
    lock = FileLock(folder.lock, timeout=0)

    def acquire() -> None:
        with explain_write_errors(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout as error:
                raise InvalidInput(
                    f"--run-dir: another fit uses {folder.path}: wait for its end, or name another folder"
                ) from error

    group.on_rank_zero(acquire)
    try:
        yield
    finally:
        lock.release()
