"""Arrays on the disk: `.npy` files that grow row by row, and are memory-mapped when they are whole.

They are written by appending, never through a memory map: where a disk is full, a write fails with an error,
while a page of a map that cannot be written kills the process.
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
    """A `.npy` file that grows row by row; a context manager, at whose end the file is whole."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, width: tuple[int, ...] = ()) -> None:
        """Names the file, the type of its elements, and the shape of a row."""
        self._path = path
        self._dtype = np.dtype(dtype)
        self._width = width
        self._rows = 0
        self._file: BinaryIO | None = None

    def __len__(self) -> int:
        return self._rows

    def __enter__(self) -> Self:
        with explained(self._path):
            self._file = self._path.open("wb")
            self._file.write(bytes(HEADER_SIZE))
        return self

    def append(self, rows: Array) -> None:
        """Writes rows (n, *width).

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        assert self._file is not None
        with explained(self._path):
            self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self._rows += len(rows)

    def widen(self, width: int) -> None:
        """Makes the rows, which held nothing so far, so many zeros wide."""
        before, self._rows, self._width = self._rows, 0, (width,)
        while self._rows < before:
            self.append(np.zeros((min(before - self._rows, ZEROS_AT_ONCE), width), self._dtype))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        shape = (self._rows, *self._width)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        # The format allows any number of spaces, so the header can be written when the shape is known.
        text = repr(header).encode().ljust(HEADER_SIZE - 11) + b"\n"
        with explained(self._path), self._file:
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
    """A `.npy` file as a read-only array, which is read from the disk where it is looked at."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def begin(folder: Path, names: Iterable[str]) -> None:
    """Makes a folder ready for arrays, each in a file of its own.

    Files of these names are removed and not overwritten, since somebody may have them mapped.

    Raises:
        CannotWrite: It cannot be made, or a file cannot be removed.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).unlink(missing_ok=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Says what to do where a file cannot be written.

    Raises:
        CannotWrite: Something within raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise CannotWrite(
            f"{path}: cannot be written: {error.strerror}: name a folder on a disk with room"
        ) from error


@contextmanager
def explained_temporary() -> Iterator[None]:
    """Says what to do where the folder of temporary files cannot be written.

    Raises:
        CannotWrite: Something within raised an OSError.
    """
    try:
        yield
    except OSError as error:
        try:
            place = tempfile.gettempdir()
        except OSError:  # none of those that Python knows can be written
            place = "the folder of temporary files"
        raise CannotWrite(
            f"{place}: cannot be written: {error.strerror}: set TMPDIR to a folder on a disk with room"
        ) from error


@contextmanager
def temporary_folder(prefix: str, within: Path | None = None) -> Iterator[Path]:
    """A folder for temporary files, which is removed when the context ends.

    Args:
        prefix: Of its name.
        within: Where; by default where temporary files are.

    Raises:
        CannotWrite: It cannot be made.
    """
    folder = make_temporary_folder(prefix, within)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_temporary_folder(prefix: str, within: Path | None = None) -> Path:
    """A new folder for temporary files, see `temporary_folder`. Raises CannotWrite."""
    with explained_temporary() if within is None else explained(within):
        return Path(tempfile.mkdtemp(prefix=prefix, dir=within))


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes another one's place, durably, when the context ends.

    If the context ends with an error, the file at the path stays as it is and the new one is removed.

    Raises:
        CannotWrite: The disk is full, or failed.
    """
    staging = path.with_suffix(".staging")
    with explained(path):
        try:
            with staging.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            replace_durably(staging, path)
        except BaseException:
            staging.unlink(missing_ok=True)
            raise
