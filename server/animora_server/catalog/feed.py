"""The posts that are not deleted, by age: where timelines take their candidates from."""

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
        """The feed of rows int64 (f), ascending, of a column created_at float64 (n)."""
        times = created_at[rows]
        order = np.argsort(times, kind="stable")
        return cls(rows[order], times[order])

    def updated(self, table: CatalogPosts) -> "FeedIndex":
        """The feed of a later table of the same epoch; what came is merged, nothing is sorted again."""
        live = ~table.deleted
        kept = self.rows[live[self.rows]]
        times = table.created_at[kept]
        if np.any(times[1:] < times[:-1]):  # a time of creation was edited
            return FeedIndex.of(table.created_at, np.flatnonzero(live))
        live[kept] = False
        came = FeedIndex.of(table.created_at, np.flatnonzero(live))
        at = np.searchsorted(times, came.created_at, side="right")
        return FeedIndex(np.insert(kept, at, came.rows), np.insert(times, at, came.created_at))

    def newest(self, since: float, limit: int) -> IntArray:
        """Rows of the newest posts made since a time (unix seconds), at most `limit`, oldest first."""
        start = int(np.searchsorted(self.created_at, since))
        return self.rows[max(start, len(self.rows) - limit) :]

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return self.rows.nbytes + self.created_at.nbytes
