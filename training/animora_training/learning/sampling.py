"""Negative sampling and the dropping of post ids, in whole batches."""

from typing import Protocol

import torch
from torch import Tensor

MAX_REDRAWS = 64
MAX_TABLE = 1 << 27  # bytes


class Pairs(Protocol):
    """A set of pairs of a user's and a post's row."""

    def contain(self, users: Tensor, posts: Tensor) -> Tensor:
        """Bool (m): which pairs of user rows int64 (m) and post rows int64 (m) are in the set."""
        ...


class PairTable:
    """A byte for every possible pair: several times as fast as a search, where it fits."""

    def __init__(self, users: Tensor, posts: Tensor, shape: tuple[int, int]) -> None:
        self._table = torch.zeros(shape, dtype=torch.bool)
        self._table[users, posts] = True

    def contain(self, users: Tensor, posts: Tensor) -> Tensor:
        """See Pairs."""
        return self._table[users, posts]


class SortedPairs:
    """Sorted numbers of the pairs that there are, for any number of users and posts."""

    def __init__(self, users: Tensor, posts: Tensor, shape: tuple[int, int]) -> None:
        self._post_rows = shape[1]
        self._keys = torch.sort(users * self._post_rows + posts).values  # int64 (n)

    def contain(self, users: Tensor, posts: Tensor) -> Tensor:
        """See Pairs."""
        keys = users * self._post_rows + posts
        at = torch.searchsorted(self._keys, keys).clamp_(max=len(self._keys) - 1)
        return self._keys[at] == keys


def pairs_of(users: Tensor, posts: Tensor, shape: tuple[int, int]) -> Pairs:
    """The set of the pairs of rows int64 (n) and int64 (n), below the numbers of rows in the shape."""
    fits = shape[0] * shape[1] <= MAX_TABLE
    return PairTable(users, posts, shape) if fits else SortedPairs(users, posts, shape)


class NegativeSampler:
    """Draws posts that a user has not interacted with, uniformly from given rows."""

    def __init__(self, positive: Pairs, drawn_from: Tensor, generator: torch.Generator) -> None:
        """Takes the positive pairs, the rows int64 (r) to draw from and the source of chance."""
        self._positive = positive
        self._drawn_from = drawn_from
        self._generator = generator

    def draw(self, users: Tensor, count: int) -> Tensor:
        """Post rows int64 (b, count) for user rows int64 (b).

        A user who has interacted with nearly everything may get a positive after MAX_REDRAWS.
        """
        of_users = users.repeat_interleave(count)
        drawn = self._draw(len(of_users))
        refused = self._positive.contain(of_users, drawn).nonzero().squeeze(1)
        for _ in range(MAX_REDRAWS):
            if not len(refused):
                break
            drawn[refused] = self._draw(len(refused))
            refused = refused[self._positive.contain(of_users[refused], drawn[refused])]
        return drawn.view(-1, count)

    def _draw(self, count: int) -> Tensor:
        return self._drawn_from[torch.randint(len(self._drawn_from), (count,), generator=self._generator)]


def drop_probabilities(counts: Tensor, rate: float, scale: float) -> Tensor:
    """The chance float32 (post rows) that a post's id is dropped: rare posts' more often.

    rate + (1 - rate) · scale / (scale + count), and 1 for the unknown row 0.
    """
    rare = scale / (scale + counts.clamp(min=1))
    probabilities = rate + (1 - rate) * rare
    probabilities[0] = 1.0
    return probabilities
