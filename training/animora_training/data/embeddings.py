"""Writes a column of embeddings from a COPY stream to a float16 file."""

from collections import Counter

import numpy as np

from animora_database.embeddings import UNUSABLE, EmbeddingBatch, to_halves
from animora_training.data.arrays import ArrayFile
from animora_training.data.dataset import Embeddings, IntArray


class EmbeddingWriter:
    """Writes the embeddings of one column of animora.posts; absent ones as zeros.

    A null or empty embedding is absent. An unusable one counts as absent: with several dimensions, with a
    null, with a value beyond float16, or of another width than the column.

    Args:
        file: An open file of width 0.
        width: Width of the column. 0 takes the most frequent width of the first `append` with usable
            embeddings, which may not be the most frequent one of all.

    Attributes:
        width: Width of the column; 0 until a usable embedding was seen.
        unusable: Number of unusable embeddings.
    """

    def __init__(self, file: ArrayFile, width: int = 0) -> None:
        self.width = width
        self.unusable = 0
        self._file = file
        self._widths: Counter[int] = Counter()
        if width:
            file.widen(width)

    @property
    def most_frequent_width(self) -> int:
        """The most frequent usable width, the smallest of equally frequent ones; 0 without any."""
        return max(self._widths, key=lambda width: (self._widths[width], -width), default=0)

    def append(self, batch: EmbeddingBatch) -> None:
        """Writes the embeddings of some posts.

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        by_width = self._usable(batch)
        self._widths.update({width: len(at) for width, (at, _) in by_width.items()})
        if by_width and not self.width:
            self.width = self.most_frequent_width
            self._file.widen(self.width)
        matrix = np.zeros((len(batch.widths), self.width), np.float16)
        for width, (at, embeddings) in by_width.items():
            if width == self.width:
                matrix[at] = embeddings
            else:
                self.unusable += len(at)
        self._file.append(matrix)

    def _usable(self, batch: EmbeddingBatch) -> dict[int, tuple[IntArray, Embeddings]]:
        """Positions int64 (k) and embeddings float16 (k, width) of the usable embeddings, by width."""
        self.unusable += int(np.count_nonzero(batch.widths == UNUSABLE))
        by_width = {}
        for width, block in batch.blocks.items():
            halves, finite = to_halves(block)
            self.unusable += int(np.count_nonzero(~finite))
            if finite.any():
                by_width[width] = np.flatnonzero(batch.widths == width)[finite], halves[finite]
        return by_width
