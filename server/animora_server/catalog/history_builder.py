"""Builds a history index of interactions that need not fit memory."""

import numpy as np

from animora_server.catalog.buckets import (
    BUCKETS,
    CsrLayout,
    Part,
    append_part,
    concatenate,
    split_into_buckets,
)
from animora_server.catalog.histories import HistoryIndex, newest_entries
from animora_server.catalog.index import narrow_ids
from animora_server.catalog.records import Interactions

MIN_UNSELECTED = 16_384  # for all buckets 18 MB, and few selections in small catalogs


class HistoryBuilder:
    """Collects interactions, in any order, and keeps the newest entries of each user.

    A bucket is reduced to its entries when as many interactions as it has entries were added. So memory grows
    with the entries and not with the interactions: at most 17 bytes for each entry and each unselected
    interaction, or 25 if ids do not fit 32 bits.

    Args:
        limit: The number of entries of a user, at most; with 0 nothing is kept.
        min_unselected: The number of unselected interactions below which a bucket is not reduced.
    """

    def __init__(self, limit: int, min_unselected: int = MIN_UNSELECTED) -> None:
        self._limit = limit
        self._min_unselected = min_unselected
        self._buckets = [_Bucket() for _ in range(BUCKETS)]

    def add(self, interactions: Interactions) -> None:
        """Adds interactions."""
        if not self._limit:
            return
        columns = (
            narrow_ids(interactions.user_ids), narrow_ids(interactions.post_ids), interactions.kinds,
            interactions.times,
        )  # fmt: skip
        for number, part in split_into_buckets(interactions.user_ids, columns):
            bucket = self._buckets[number]
            bucket.add(part)
            if bucket.unselected >= max(self._min_unselected, bucket.entries):
                bucket.select(self._limit)

    def build(self) -> HistoryIndex:
        """Returns the index of all interactions added, and empties the builder."""
        indexes = []
        for number in range(BUCKETS):
            interactions, self._buckets[number] = self._buckets[number].interactions(), _Bucket()
            indexes.append(HistoryIndex.of(interactions, self._limit))
        layout = CsrLayout.of(
            [index.user_ids for index in indexes], [np.diff(index.offsets) for index in indexes]
        )
        entries = layout.offsets[-1]
        post_ids = np.empty(entries, np.result_type(*(index.post_ids.dtype for index in indexes)))
        kinds, times = np.empty(entries, np.int8), np.empty(entries, np.uint32)
        for number, index in enumerate(indexes):
            at = layout.positions(number, index.offsets)
            post_ids[at], kinds[at], times[at] = index.post_ids, index.kinds, index.times
            indexes[number] = HistoryIndex.empty()
        return HistoryIndex(layout.keys, layout.offsets, post_ids, kinds, times)


class _Bucket:
    """Interactions of some users.

    Attributes:
        entries: The number of entries that the last selection found.
        unselected: The number of interactions added since.
    """

    def __init__(self) -> None:
        self._parts: list[Part] = []  # of user ids, post ids, kinds and times
        self.entries = self.unselected = 0

    def add(self, part: Part) -> None:
        """Adds interactions."""
        append_part(self._parts, part)
        self.unselected += len(part[0])

    def select(self, limit: int) -> None:
        """Drops interactions that are not among the newest entries of their user."""
        _, _, newest = newest_entries(self.interactions(), limit)
        self._parts = [tuple(column[newest] for column in concatenate(self._parts))]
        self.entries, self.unselected = len(newest), 0

    def interactions(self) -> Interactions:
        """All interactions that are kept."""
        if not self._parts:
            return Interactions.empty()
        user_ids, post_ids, kinds, times = concatenate(self._parts)
        return Interactions(user_ids.astype(np.int64), post_ids.astype(np.int64), kinds, times)
