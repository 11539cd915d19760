"""Builds a `CsrIndex` from pairs that arrive in parts, in little more memory than the result takes."""

from typing import Any

import numpy as np
import numpy.typing as npt

from animora_server.catalog.index import CsrIndex, narrow_ids
from animora_server.types import IntArray

BUCKETS = 64  # sorted one after the other, so that sorting needs memory for one bucket only
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: spreads consecutive keys over the buckets

Ids = npt.NDArray[np.signedinteger[Any]]  # int32 or int64
Part = tuple[Ids, Ids]


class CsrIndexBuilder:
    """Collects pairs of a key and a member; repeats are allowed.

    An unsorted pair takes 8 bytes, or 16 if ids do not fit 32 bits; a sorted one takes half of that.
    """

    def __init__(self) -> None:
        self._buckets: list[list[Part]] = [[] for _ in range(BUCKETS)]

    def add(self, keys: IntArray, members: IntArray) -> None:
        """Adds pairs: int64 (p) each."""
        if not len(keys):
            return
        bucket = (keys.view(np.uint64) * FACTOR) >> np.uint64(58)  # the upper 6 bits: BUCKETS values
        order = np.argsort(bucket, kind="stable")
        narrow_keys, narrow_members = narrow_ids(keys[order]), narrow_ids(members[order])
        ends = np.searchsorted(bucket[order], np.arange(BUCKETS), side="right")
        start = 0
        for number, end in enumerate(ends.tolist()):
            if end > start:
                part = slice(start, end)
                _append(self._buckets[number], narrow_keys[part], narrow_members[part])
            start = end

    def build(self) -> CsrIndex:
        """Returns the index of all pairs added, and empties the builder."""
        indexes = [self._sorted(number) for number in range(BUCKETS)]
        keys = np.concatenate([index.keys for index in indexes])
        sizes = np.concatenate([np.diff(index.offsets) for index in indexes])
        order = np.argsort(keys)
        offsets = np.zeros(len(keys) + 1, np.int64)
        np.cumsum(sizes[order], out=offsets[1:])
        starts = np.empty(len(keys), np.int64)  # the position of each key's set in `members`
        starts[order] = offsets[:-1]
        members = np.empty(offsets[-1], np.result_type(*(index.members.dtype for index in indexes)))
        first = 0
        for number, index in enumerate(indexes):
            last = first + len(index.keys)
            # Shifts each set to its position.
            shifts = np.repeat(starts[first:last] - index.offsets[:-1], sizes[first:last])
            members[np.arange(len(index.members)) + shifts] = index.members
            indexes[number], first = CsrIndex.empty(), last
        return CsrIndex(keys[order], offsets, members)

    def _sorted(self, number: int) -> CsrIndex:
        parts, self._buckets[number] = self._buckets[number], []
        if not parts:
            return CsrIndex.empty()
        keys = np.concatenate([part[0] for part in parts])
        members = np.concatenate([part[1] for part in parts])
        return CsrIndex.of(keys.astype(np.int64), members.astype(np.int64))


def _append(bucket: list[Part], keys: Ids, members: Ids) -> None:
    """Adds pairs to a bucket, concatenated with the preceding parts that are not larger.

    This keeps the number of arrays small: many small ones would fragment the process' memory. The arrays are
    copies, because a view would keep the whole array that it is part of in memory.
    """
    joined_keys, joined_members = [keys], [members]
    size = len(keys)
    while bucket and len(bucket[-1][0]) <= size:
        previous_keys, previous_members = bucket.pop()
        size += len(previous_keys)
        joined_keys.insert(0, previous_keys)
        joined_members.insert(0, previous_members)
    bucket.append((np.concatenate(joined_keys), np.concatenate(joined_members)))
