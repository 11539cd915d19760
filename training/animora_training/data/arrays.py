"""Arrays on disk: `.npy` files that are written row by row and then memory-mapped for reading.

Files are written by appending, never through a memory map: on a full disk a write raises an error, while an
unwritable page of a memory map kills the process.
"""

import os
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from animora_artifact.durability import replace_durably
from animora_training.errors import CannotWrite

HEADER_SIZE = 128
ZEROS_AT_ONCE = 1 << 10

Array = npt.NDArray[Any]


class ArrayFile:
    """Context manager that writes a `.npy` file row by row; the header is written at its end."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, width: tuple[int, ...] = ()) -> None:
        """Stores the path, the dtype, and the shape of a row."""
        self._path = path
        self._dtype = np.dtype(dtype)
        self._width = width
        self._rows = 0
        self._file: BinaryIO | None = None

    def __len__(self) -> int:
        return self._rows

    def __enter__(self) -> Self:
        with explain_write_errors(self._path):
            self._file = self._path.open("wb")
            self._file.write(bytes(HEADER_SIZE))
        return self

    def append(self, rows: Array) -> None:
        """Writes rows (n, *width).

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        assert self._file is not None
        with explain_write_errors(self._path):
            self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self._rows += len(rows)

    def widen(self, width: int) -> None:
        """Sets the width of a file whose rows had width 0, and fills the rows with zeros."""
        before, self._rows, self._width = self._rows, 0, (width,)
        while self._rows < before:
            self.append(np.zeros((min(before - self._rows, ZEROS_AT_ONCE), width), self._dtype))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        shape = (self._rows, *self._width)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        # The header is padded with spaces to a fixed size, so it can be written last.
        text = repr(header).encode().ljust(HEADER_SIZE - 11) + b"\n"
        with explain_write_errors(self._path), self._file:
            self._file.seek(0)
            self._file.write(np.lib.format.magic(1, 0) + struct.pack("<H", len(text)) + text)


def write_array(path: Path, rows: Array) -> None:
    """Writes a `.npy` file.

    Raises:
        CannotWrite: The disk is full, or failed.
    """
    with ArrayFile(path, rows.dtype, rows.shape[1:]) as file:
        file.append(rows)


def map_array(path: Path) -> Array:
    """Maps a `.npy` file into memory, read-only."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def prepare_folder(folder: Path, names: Iterable[str]) -> None:
    """Creates a folder and removes old array files from it.

    Files are removed, not overwritten, since another process may have them mapped.

    Raises:
        CannotWrite: The folder cannot be created, or a file cannot be removed.
    """
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).unlink(missing_ok=True)


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into CannotWrite, with the path and a remedy."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(
            f"{path}: cannot be written: {error.strerror}: name a folder on a disk with room"
        ) from error


@contextmanager
def explain_temporary_write_errors() -> Iterator[None]:
    """Turns an OSError of the block into CannotWrite, with the folder of temporary files and a remedy."""
    try:
        yield
    except OSError as error:
        try:
            place = tempfile.gettempdir()
        except OSError:  # Python found no writable temporary folder
            place = "the folder of temporary files"
        raise CannotWrite(
            f"{place}: cannot be written: {error.strerror}: set TMPDIR to a folder on a disk with room"
        ) from error


@contextmanager
def temporary_folder(prefix: str, within: Path | None = None) -> Iterator[Path]:
    """Context manager with a temporary folder, which is removed at its end.

    Args:
        prefix: Prefix of the folder's name.
        within: Parent folder; the system's folder for temporary files by default.

    Raises:
        CannotWrite: The folder cannot be created.
    """
    folder = make_temporary_folder(prefix, within)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_temporary_folder(prefix: str, within: Path | None = None) -> Path:
    """Creates a temporary folder, see `temporary_folder`. Raises CannotWrite."""
    with explain_temporary_write_errors() if within is None else explain_write_errors(within):
        return Path(tempfile.mkdtemp(prefix=prefix, dir=within))


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Context manager that writes a file and atomically replaces the file at the path, durably.

    If the block raises, the file at the path stays as it is and the new file is removed.

    Raises:
        CannotWrite: The disk is full, or failed.
    """
    staging = path.with_suffix(".staging")
    with explain_write_errors(path):
        try:
            with staging.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            replace_durably(staging, path)
        except BaseException:
            staging.unlink(missing_ok=True)
            raise
