"""A column of embeddings on its way from a COPY stream into a float16 file, many rows at a time."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from animora_database.embeddings import Decoder
from animora_training.data.arrays import ArrayFile
from animora_training.data.dataset import Embeddings, IntArray
from animora_training.errors import DatabaseError

NULL = -1  # the length of a field that is null


class EmbeddingWriter:
    """The embeddings of one column of animora.posts.

    An embedding that is null or empty is absent. One that cannot be used counts as absent: of several
    dimensions, with a null, with a number that no float16 holds, or of another width than the column.

    Args:
        file: An open file of no width.
        decode: How the column is decoded.
        width: The column's width. 0 takes the most frequent one of the first call of `append` that has usable
            embeddings, which may turn out not to be the most frequent one of all.

    Attributes:
        width: See Args; 0 as long as no embedding can be used.
        unusable: How many embeddings could not be used.
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
        """Of all that can be used, 0 without any; of equally frequent ones the smallest, as in the server."""
        return max(self._widths, key=lambda width: (self._widths[width], -width), default=0)

    def append(self, fields: Sequence[memoryview | None]) -> None:
        """Takes the embeddings of some posts, each a field of the column.

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
