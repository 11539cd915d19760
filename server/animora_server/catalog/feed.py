"""The feed index: the posts that are not deleted, by age. Timelines take their candidates from it."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from animora_server.catalog.table import CatalogPosts
from animora_server.types import DoubleArray, IntArray


@dataclass(frozen=True, slots=True)
class FeedIndex:
    """Rows of posts by age, oldest first.

    Attributes:
        rows: int64 (f), in the catalog.
        created_at: float64 (f), unix seconds, ascending.
    """

    rows: IntArray
    created_at: DoubleArray

    @classmethod
    def empty(cls) -> Self:
        """No posts."""
        return cls(np.empty(0, np.int64), np.empty(0, np.float64))

    @classmethod
    def of(cls, created_at: DoubleArray, rows: IntArray) -> Self:
        """An index of rows int64 (f), ascending, sorted by the column created_at float64 (n)."""
        times = created_at[rows]
        order = np.argsort(times, kind="stable")
        return cls(rows[order], times[order])

    def updated(self, table: CatalogPosts) -> "FeedIndex":
        """The index of a later table of the same epoch. New posts are merged without sorting all again."""
        live = ~table.deleted
        kept = self.rows[live[self.rows]]
        times = table.created_at[kept]
        if np.any(times[1:] < times[:-1]):  # a time of creation was edited
            return FeedIndex.of(table.created_at, np.flatnonzero(live))
        live[kept] = False
        added = FeedIndex.of(table.created_at, np.flatnonzero(live))
        at = np.searchsorted(times, added.created_at, side="right")
        return FeedIndex(np.insert(kept, at, added.rows), np.insert(times, at, added.created_at))

    def newest(self, since: float, limit: int) -> IntArray:
        """Rows of the newest posts made since a time (unix seconds), at most `limit`, oldest first."""
        start = int(np.searchsorted(self.created_at, since))
        return self.rows[max(start, len(self.rows) - limit) :]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.rows.nbytes + self.created_at.nbytes
