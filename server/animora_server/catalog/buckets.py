"""Rows in buckets by a hash of their key, so that sorting all rows needs memory for one bucket only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from animora_server.types import IntArray

BUCKETS = 64
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: spreads consecutive keys over the buckets

Column = npt.NDArray[Any]
Part = tuple[Column, ...]  # columns of equal length


def split_into_buckets(keys: IntArray, columns: Sequence[Column]) -> Iterator[tuple[int, Part]]:
    """The rows of each bucket that has any: the number of the bucket, and the rows of each column (p).

    Args:
        keys: int64 (p). All rows of one key are in one bucket.
        columns: The columns (p).
    """
    # The upper 6 bits: BUCKETS values. Bytes are sorted by radix.
    bucket = ((keys.view(np.uint64) * FACTOR) >> np.uint64(58)).astype(np.uint8)
    order = np.argsort(bucket, kind="stable")
    columns = [column[order] for column in columns]
    ends = np.searchsorted(bucket[order], np.arange(BUCKETS), side="right")
    start = 0
    for number, end in enumerate(ends.tolist()):
        if end > start:
            yield number, tuple(column[start:end] for column in columns)
        start = end


def append_part(parts: list[Part], part: Part) -> None:
    """Appends a part, concatenated with the preceding parts that are not larger.

    This keeps the number of arrays small: many small ones would fragment the process' memory. The arrays are
    copies, because a view would keep the whole array that it is part of in memory.
    """
    joined = [part]
    size = len(part[0])
    while parts and len(parts[-1][0]) <= size:
        joined.append(parts.pop())
        size += len(joined[-1][0])
    parts.append(concatenate(joined[::-1]))


def concatenate(parts: Sequence[Part]) -> Part:
    """The rows of all parts, of which there is at least one, as one part."""
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


@dataclass(frozen=True, slots=True)
class CsrLayout:
    """Where the members of several CSR indexes of distinct keys are in the CSR index of all keys.

    Attributes:
        keys: int64 (k), the keys of all indexes, ascending.
        offsets: int64 (k + 1), where the members of each key start.
        starts: For each index int64 (its keys), where the members of each of its keys start.
    """

    keys: IntArray
    offsets: IntArray
    starts: Sequence[IntArray]

    @classmethod
    def of(cls, keys: Sequence[IntArray], sizes: Sequence[IntArray]) -> Self:
        """The layout of indexes, given the keys of each and the number of members of each key: int64."""
        all_keys, all_sizes = np.concatenate(keys), np.concatenate(sizes)
        order = np.argsort(all_keys)
        offsets = np.zeros(len(all_keys) + 1, np.int64)
        np.cumsum(all_sizes[order], out=offsets[1:])
        starts = np.empty(len(all_keys), np.int64)
        starts[order] = offsets[:-1]
        ends = np.cumsum([len(some) for some in keys])
        return cls(all_keys[order], offsets, np.split(starts, ends[:-1]))

    def positions(self, number: int, offsets: IntArray) -> IntArray:
        """The position of each member of an index: int64 (its members).

        Args:
            number: Which index.
            offsets: int64 (its keys + 1), where the members of each key start in that index.
        """
        return expand(self.starts[number], np.diff(offsets))


def expand(starts: IntArray, sizes: IntArray) -> IntArray:
    """The numbers from each start on, as many as its size: int64 (sum of sizes)."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + sizes, sizes)
