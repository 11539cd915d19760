"""Writes a column of embeddings from a COPY stream to a float16 file."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from animora_database.embeddings import Decoder
from animora_training.data.arrays import ArrayFile
from animora_training.data.dataset import Embeddings, IntArray
from animora_training.errors import DatabaseError

NULL = -1  # length of a null field


class EmbeddingWriter:
    """Writes the embeddings of one column of animora.posts; absent ones as zeros.

    A null or empty embedding is absent. An unusable one counts as absent: with several dimensions, with a
    null, with a value beyond float16, or of another width than the column.

    Args:
        file: An open file of width 0.
        decode: Decoder of the column.
        width: Width of the column. 0 takes the most frequent width of the first `append` with usable
            embeddings, which may not be the most frequent one of all.

    Attributes:
        width: Width of the column; 0 until a usable embedding was seen.
        unusable: Number of unusable embeddings.
    """

    def __init__(self, file: ArrayFile, decode: Decoder, width: int = 0) -> None:
        self.width = width
        self.unusable = 0
        self._file = file
        self._decode = decode
        self._widths: Counter[int] = Counter()
        if width:
            file.widen(width)

    @property
    def most_frequent_width(self) -> int:
        """The most frequent usable width, the smallest of equally frequent ones; 0 without any."""
        return max(self._widths, key=lambda width: (self._widths[width], -width), default=0)

    def append(self, fields: Sequence[memoryview | None]) -> None:
        """Writes the embeddings of some posts, each a field of the column.

        Raises:
            DatabaseError: The column's type was changed while it was read.
            CannotWrite: The disk is full, or failed.
        """
        by_width = self._decoded(fields)
        self._widths.update({width: len(at) for width, (at, _) in by_width.items()})
        if by_width and not self.width:
            self.width = self.most_frequent_width
            self._file.widen(self.width)
        matrix = np.zeros((len(fields), self.width), np.float16)
        for width, (at, embeddings) in by_width.items():
            if width == self.width:
                matrix[at] = embeddings
            else:
                self.unusable += len(at)
        self._file.append(matrix)

    def _decoded(self, fields: Sequence[memoryview | None]) -> dict[int, tuple[IntArray, Embeddings]]:
        """Indices int64 (k) and embeddings float16 (k, width) of the usable fields, by width."""
        lengths = np.array([NULL if field is None else len(field) for field in fields], np.int64)
        by_width = {}
        for length in np.unique(lengths[lengths != NULL]).tolist():
            at = np.flatnonzero(lengths == length)
            data = b"".join(field for field in fields if field is not None and len(field) == length)
            try:
                embeddings, usable = self._decode(np.frombuffer(data, np.uint8).reshape(-1, length))
            except ValueError as error:
                raise DatabaseError(f"animora.posts was changed while it was read: {error}") from error
            if not embeddings.shape[1]:
                continue  # empty arrays
            # Values beyond float16 become infinite.
            with np.errstate(over="ignore"):
                halves = embeddings.astype(np.float16)
            usable = usable & np.isfinite(halves).all(axis=1)
            self.unusable += int(np.count_nonzero(~usable))
            if usable.any():
                by_width[embeddings.shape[1]] = at[usable], halves[usable]
        return by_width
