"""The vocabulary: maps user and post ids to rows of the model's tables."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from animora_artifact.errors import ArtifactRejected, RejectionReason
from animora_artifact.npz import Expected, read_npz, to_npz

Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]

UNKNOWN_ROW = 0


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ids in the order of their rows; row 0 is the unknown id, so ids[i] has row i + 1.

    Attributes:
        user_ids: int64 (users - 1), distinct.
        post_ids: int64 (posts - 1), distinct.
    """

    user_ids: Ids
    post_ids: Ids

    @classmethod
    def from_npz(cls, data: bytes) -> Self:
        """Reads `vocabulary.npz`.

        Raises:
            ArtifactRejected: See `read_npz`; or an id is listed twice.
        """
        ids = Expected(np.int64, 1)
        vocabulary = cls(**read_npz(data, {"user_ids": ids, "post_ids": ids}))
        for name, array in (("user_ids", vocabulary.user_ids), ("post_ids", vocabulary.post_ids)):
            if len(np.unique(array)) != len(array):
                raise ArtifactRejected(RejectionReason.CONTENT, f"{name} lists a value twice")
        return vocabulary

    def to_npz(self) -> bytes:
        """The content of `vocabulary.npz`."""
        return to_npz({"user_ids": self.user_ids, "post_ids": self.post_ids})


class RowIndex:
    """Looks up rows of ids, vectorised; an unknown id has row 0."""

    def __init__(self, ids: Ids) -> None:
        order = np.argsort(ids, kind="stable")
        self._sorted = ids[order]  # int64 (n)
        self._rows = order + 1  # int64 (n)

    def rows(self, ids: Ids) -> Rows:
        """Rows int64 (m) of ids int64 (m)."""
        if not len(self._sorted):
            return np.zeros(len(ids), np.int64)
        # Methods and a clipping take are twice as fast as functions and bounded indexing.
        at = self._sorted.searchsorted(ids)
        there = np.equal(self._sorted.take(at, mode="clip"), ids)
        return np.multiply(self._rows.take(at, mode="clip"), there)

    def row(self, an_id: int) -> int:
        """The row of one id."""
        at = int(self._sorted.searchsorted(an_id))
        if at == len(self._sorted) or self._sorted.item(at) != an_id:
            return UNKNOWN_ROW
        return self._rows.item(at)
