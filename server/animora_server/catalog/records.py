"""Rows of the database as columns: posts, embeddings, interactions and pairs of ids."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from animora_database.embeddings import EmbeddingBatch
from animora_server.types import BoolArray, DoubleArray, IntArray, SmallArray

NEVER = int(np.iinfo(np.int64).min)  # the updated_at of a post that was never edited


@dataclass(frozen=True, slots=True)
class PostRecords:
    """Posts without their embeddings, distinct and ascending by id.

    Attributes:
        ids: int64 (n).
        author_ids: int64 (n).
        created_at: float64 (n), unix seconds.
        updated_at: int64 (n), microseconds since POSTGRES_EPOCH, or NEVER.
        deleted: bool (n), soft-deleted.
        repeated: int64 (k), the ids of dropped duplicate rows.
    """

    ids: IntArray
    author_ids: IntArray
    created_at: DoubleArray
    updated_at: IntArray
    deleted: BoolArray
    repeated: IntArray = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.ids)

    def distinct(self) -> "PostRecords":
        """One record for each post, ascending by id.

        Of duplicate rows a deleted one is preferred, then the oldest, then that of the smallest author id.
        """
        ids, first = np.unique(self.ids, return_index=True)
        if len(ids) == len(self.ids):
            return self.take(first)
        order = np.lexsort((self.author_ids, self.created_at, ~self.deleted, self.ids))
        fresh = np.append(True, np.diff(self.ids[order]) != 0)
        return replace(self.take(order[fresh]), repeated=self.ids[order[~fresh]])

    def take(self, at: IntArray) -> "PostRecords":
        """The records at positions int64 (k)."""
        return PostRecords(
            self.ids[at], self.author_ids[at], self.created_at[at], self.updated_at[at], self.deleted[at]
        )

    def merged(self, others: "PostRecords") -> "PostRecords":
        """These records, plus those of `others` whose ids are not among these."""
        others = others.take(np.flatnonzero(~np.isin(others.ids, self.ids)))
        return PostRecords(
            np.concatenate((self.ids, others.ids)),
            np.concatenate((self.author_ids, others.author_ids)),
            np.concatenate((self.created_at, others.created_at)),
            np.concatenate((self.updated_at, others.updated_at)),
            np.concatenate((self.deleted, others.deleted)),
        ).distinct()


@dataclass(frozen=True, slots=True)
class EmbeddingRecords:
    """The embeddings of posts int64 (k)."""

    ids: IntArray
    images: EmbeddingBatch
    captions: EmbeddingBatch


@dataclass(frozen=True, slots=True)
class Interactions:
    """Likes and comments, in any order, repeats allowed.

    Attributes:
        user_ids: int64 (p).
        post_ids: int64 (p).
        kinds: int8 (p), positions in `animora_database.views.INTERACTION_KINDS`; int8 (0) if not read.
        times: int64 (p), microseconds since POSTGRES_EPOCH; int64 (0) if not read.
    """

    user_ids: IntArray
    post_ids: IntArray
    kinds: SmallArray = field(default_factory=lambda: np.empty(0, np.int8))
    times: IntArray = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def empty(cls) -> Self:
        """No interactions."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.user_ids)

    def same_as(self, other: "Interactions") -> bool:
        """Whether the other has the same interactions in the same order."""
        return (
            np.array_equal(self.user_ids, other.user_ids)
            and np.array_equal(self.post_ids, other.post_ids)
            and np.array_equal(self.kinds, other.kinds)
            and np.array_equal(self.times, other.times)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.user_ids.nbytes + self.post_ids.nbytes + self.kinds.nbytes + self.times.nbytes


@dataclass(frozen=True, slots=True)
class IdPairs:
    """Pairs of ids int64 (p), repeats allowed: blockers and blocked users."""

    first: IntArray
    second: IntArray

    @classmethod
    def empty(cls) -> Self:
        """No pairs."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64))

    def same_as(self, other: "IdPairs") -> bool:
        """Whether the other has the same pairs in the same order."""
        return np.array_equal(self.first, other.first) and np.array_equal(self.second, other.second)
