"""Builds a CSR index of more pairs than fit memory twice."""

import numpy as np

from animora_server.catalog.buckets import (
    BUCKETS,
    CsrLayout,
    Part,
    append_part,
    concatenate,
    split_into_buckets,
)
from animora_server.catalog.index import CsrIndex, narrow_ids
from animora_server.types import IntArray


class CsrIndexBuilder:
    """Collects pairs of a key and a member; repeats are allowed.

    An unsorted pair takes 8 bytes, or 16 if ids do not fit 32 bits; a sorted one takes half of that.
    """

    def __init__(self) -> None:
        self._buckets: list[list[Part]] = [[] for _ in range(BUCKETS)]

    def add(self, keys: IntArray, members: IntArray) -> None:
        """Adds pairs: int64 (p) each."""
        for number, part in split_into_buckets(keys, (narrow_ids(keys), narrow_ids(members))):
            append_part(self._buckets[number], part)

    def build(self) -> CsrIndex:
        """Returns the index of all pairs added, and empties the builder."""
        indexes = [self._sorted(number) for number in range(BUCKETS)]
        layout = CsrLayout.of(
            [index.keys for index in indexes], [np.diff(index.offsets) for index in indexes]
        )
        members = np.empty(layout.offsets[-1], np.result_type(*(index.members.dtype for index in indexes)))
        for number, index in enumerate(indexes):
            members[layout.positions(number, index.offsets)] = index.members
            indexes[number] = CsrIndex.empty()
        return CsrIndex(layout.keys, layout.offsets, members)

    def _sorted(self, number: int) -> CsrIndex:
        parts, self._buckets[number] = self._buckets[number], []
        if not parts:
            return CsrIndex.empty()
        keys, members = concatenate(parts)
        return CsrIndex.of(keys.astype(np.int64), members.astype(np.int64))
