"""The folder of a run: where one fit has its data, its checkpoints, its events and its report."""

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
from animora_training.data.arrays import explained, make_temporary_folder, replacing
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
from animora_training.pipeline.warm_start import NETWORK, keep

# What comes of the data, however often it is tried: they have to be read again.
FUTILE = (NothingToLearn, NotFinite)


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


@contextmanager
def run_folder(
    path: Path | None, ranks: ProcessGroup, warm_start: Path | None = None, *, resume: bool
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
        CannotWrite: The folder cannot be made, or may not be changed.
    """
    if path is None:
        temporary = ranks.once(lambda: make_temporary_folder("animora-run-"))
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
def _alone_in(folder: RunFolder, ranks: ProcessGroup) -> Iterator[None]:
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
