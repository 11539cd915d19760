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
from animora_server.catalog.histories import HistoryIndex, newest_events
from animora_server.catalog.index import narrow_ids
from animora_server.catalog.records import Interactions

MIN_UNSELECTED = 16_384  # for all buckets 18 MB, and few selections in small catalogs


class HistoryBuilder:
    """Collects interactions, in any order, and keeps the newest events of each user.

    A bucket is reduced to its events when as many interactions as it has events were added. So memory grows
    with the events and not with the interactions: at most 17 bytes for each event and each unselected
    interaction, or 25 if ids do not fit 32 bits.

    Args:
        limit: The number of events of a user, at most; with 0 nothing is kept.
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
            if bucket.unselected >= max(self._min_unselected, bucket.events):
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
        events = layout.offsets[-1]
        post_ids = np.empty(events, np.result_type(*(index.post_ids.dtype for index in indexes)))
        kinds, times = np.empty(events, np.int8), np.empty(events, np.uint32)
        for number, index in enumerate(indexes):
            at = layout.positions(number, index.offsets)
            post_ids[at], kinds[at], times[at] = index.post_ids, index.kinds, index.times
            indexes[number] = HistoryIndex.empty()
        return HistoryIndex(layout.keys, layout.offsets, post_ids, kinds, times)


class _Bucket:
    """Interactions of some users.

    Attributes:
        events: The number of events that the last selection found.
        unselected: The number of interactions added since.
    """

    def __init__(self) -> None:
        self._parts: list[Part] = []  # of user ids, post ids, kinds and times
        self.events = self.unselected = 0

    def add(self, part: Part) -> None:
        """Adds interactions."""
        append_part(self._parts, part)
        self.unselected += len(part[0])

    def select(self, limit: int) -> None:
        """Drops interactions that are not among the newest events of their user."""
        _, _, newest = newest_events(self.interactions(), limit)
        self._parts = [tuple(column[newest] for column in concatenate(self._parts))]
        self.events, self.unselected = len(newest), 0

    def interactions(self) -> Interactions:
        """All interactions that are kept."""
        if not self._parts:
            return Interactions.empty()
        user_ids, post_ids, kinds, times = concatenate(self._parts)
        return Interactions(user_ids.astype(np.int64), post_ids.astype(np.int64), kinds, times)
