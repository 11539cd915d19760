"""Raw embeddings on disk: float16, memory-mapped, one row for each post."""

import hashlib
import mmap
import os
import tempfile
import weakref
from pathlib import Path

import numpy as np

from animora_database.embeddings import magnitude_bits
from animora_process.temporary_folder import SHARED_MEMORY
from animora_server.catalog.widths import Widths
from animora_server.types import HalfArray, IntArray

COPY_ROWS = 8192  # rows copied at once between files


class EmbeddingFile:
    """Embeddings by row, in an anonymous file that is removed when this object is garbage-collected.

    One thread writes, any thread reads. Rows [0, n) of a snapshot with n rows are written and never change;
    only later rows may be written, or written again.

    Writes use `pwrite`, so that a full disk raises OSError instead of SIGBUS. Reads use a memory mapping.
    """

    def __init__(self, directory: Path | None, image_width: int, caption_width: int) -> None:
        self.image_width = image_width
        self.caption_width = caption_width
        self._directory = directory
        self._width = image_width + caption_width
        self._descriptor: int | None = None
        self._mapped: HalfArray = np.empty((0, self._width), np.float16)

    @property
    def widths(self) -> Widths:
        """The widths of both columns."""
        return Widths(self.image_width, self.caption_width)

    def read(self, start: int, stop: int) -> tuple[HalfArray, HalfArray]:
        """Image float16 (n, image_width) and caption float16 (n, caption_width) of rows [start, stop)."""
        return self._split(self._rows(stop)[start:stop].copy())

    def take(self, rows: IntArray) -> tuple[HalfArray, HalfArray]:
        """Image float16 (n, image_width) and caption float16 (n, caption_width) of rows int64 (n)."""
        stop = int(rows.max(initial=-1)) + 1
        return self._split(self._rows(stop)[rows])

    def write(self, start: int, image: HalfArray, caption: HalfArray) -> None:
        """Writes rows [start, start + n).

        Args:
            start: The first row; all rows before it must be written.
            image: float16 (n, image_width), zeros where absent.
            caption: float16 (n, caption_width), zeros where absent.

        Raises:
            OSError: The file cannot be created, or the disk is full.
        """
        if not self._width or not len(image):
            return
        block = np.concatenate((image, caption), axis=1).data.cast("B")
        offset = start * self._width * 2
        while block:
            written = os.pwrite(self._file(), block, offset)
            block, offset = block[written:], offset + written

    def resized(self, image_width: int, caption_width: int, rows: int) -> "EmbeddingFile":
        """A copy of rows [0, rows) in which a column of width 0 gets a new width, filled with zeros.

        Raises:
            OSError: As write.
        """
        copy = EmbeddingFile(self._directory, image_width, caption_width)
        for start in range(0, rows, COPY_ROWS):
            image, caption = self.read(start, min(start + COPY_ROWS, rows))
            copy.write(start, _padded(image, image_width), _padded(caption, caption_width))
        return copy

    def compacted(self, rows: IntArray) -> "EmbeddingFile":
        """A copy of only the rows int64 (n), in that order.

        Raises:
            OSError: As write.
        """
        copy = EmbeddingFile(self._directory, self.image_width, self.caption_width)
        for start in range(0, len(rows), COPY_ROWS):
            copy.write(start, *self.take(rows[start : start + COPY_ROWS]))
        return copy

    def _split(self, block: HalfArray) -> tuple[HalfArray, HalfArray]:
        return block[:, : self.image_width], block[:, self.image_width :]

    def _file(self) -> int:
        if self._descriptor is None:
            descriptor = _unnamed_file(self._directory)
            weakref.finalize(self, os.close, descriptor)
            self._descriptor = descriptor
        return self._descriptor

    def _rows(self, stop: int) -> HalfArray:
        """The mapped rows float16 (m, width), m at least `stop`."""
        mapped = self._mapped
        if not self._width:
            return np.empty((stop, 0), np.float16)
        if len(mapped) < stop:
            descriptor = self._file()
            rows = os.fstat(descriptor).st_size // (self._width * 2)
            if rows < stop:
                raise IndexError(f"row {stop - 1} of {rows}")
            mapping = mmap.mmap(descriptor, rows * self._width * 2, access=mmap.ACCESS_READ)
            mapped = np.frombuffer(mapping, np.float16).reshape(rows, self._width)
            self._mapped = mapped
        return mapped


def _unnamed_file(directory: Path | None) -> int:
    """The descriptor of a new file without a name, so that it is removed however the process ends."""
    if directory is None and tempfile.gettempdir() == SHARED_MEMORY:
        return os.memfd_create("animora-embeddings")  # in memory too, but not bounded by that folder's size
    descriptor, path = tempfile.mkstemp(prefix="animora-embeddings-", dir=directory)
    Path(path).unlink()
    return descriptor


def fingerprints(image: HalfArray, caption: HalfArray) -> IntArray:
    """64-bit digests int64 (n) of the rows of image (n, ...) and caption (n, ...); 0 if both are all zeros.

    An absent embedding is not hashed, so the digest does not depend on the width of its column.
    """
    digests = np.zeros(len(image), np.int64)
    has_image, has_caption = magnitude_bits(image) > 0, magnitude_bits(caption) > 0
    for row in np.flatnonzero(has_image | has_caption).tolist():
        digest = hashlib.blake2b(digest_size=8)
        if has_image[row]:
            digest.update(b"image")
            digest.update(image[row].data)
        if has_caption[row]:
            digest.update(b"caption")
            digest.update(caption[row].data)
        # 0 means that both are absent.
        digests[row] = int.from_bytes(digest.digest(), "little", signed=True) or 1
    return digests


def _padded(part: HalfArray, width: int) -> HalfArray:
    return part if part.shape[1] == width else np.zeros((len(part), width), np.float16)
