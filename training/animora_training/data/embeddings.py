"""A column of embeddings on its way from a COPY stream into a float16 file, many rows at a time."""

from collections.abc import Sequence

import numpy as np

from animora_database.embeddings import Decoder
from animora_training.data.arrays import ArrayFile
from animora_training.data.dataset import Embeddings, IntArray
from animora_training.errors import DatabaseError

NULL = -1  # the length of a field that is null


class EmbeddingColumn:
    """The embeddings of one column of animora.posts.

    An embedding that is null or empty is absent. One that cannot be used counts as absent: of several
    dimensions, with a null, with a number that no float16 holds, or of another width than the column.

    Args:
        file: An open file of no width.
        decode: How the column is decoded.

    Attributes:
        unusable: How many embeddings could not be used.
    """

    def __init__(self, file: ArrayFile, decode: Decoder) -> None:
        self.unusable = 0
        self._file = file
        self._decode = decode
        self._width = 0

    def append(self, fields: Sequence[memoryview | None]) -> None:
        """Takes the embeddings of some posts, each a field of the column.

        The width is the most frequent one of the first call that has usable embeddings.

        Raises:
            DatabaseError: The column's type was changed while it was read.
            CannotWrite: The disk is full, or failed.
        """
        by_width = self._decoded(fields)
        if by_width and not self._width:
            self._width = max(by_width, key=lambda width: len(by_width[width][0]))
            self._file.widen(self._width)
        matrix = np.zeros((len(fields), self._width), np.float16)
        for width, (at, embeddings) in by_width.items():
            if width == self._width:
                matrix[at] = embeddings
            else:
                self.unusable += len(at)
        self._file.append(matrix)

    def _decoded(self, fields: Sequence[memoryview | None]) -> dict[int, tuple[IntArray, Embeddings]]:
        """By width, which of the fields can be used, int64 (k), and their embeddings, float16 (k, width)."""
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
            # What float16 cannot hold becomes infinite.
            with np.errstate(over="ignore"):
                halves = embeddings.astype(np.float16)
            usable = usable & np.isfinite(halves).all(axis=1)
            self.unusable += int(np.count_nonzero(~usable))
            if usable.any():
                by_width[embeddings.shape[1]] = at[usable], halves[usable]
        return by_width
