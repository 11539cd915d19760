"""The interface of recommenders, and two simple ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from animora_training.data.dataset import BoolArray, FloatArray, IntArray
from animora_training.evaluation.metrics import Scores

SCORES_AT_ONCE = 1 << 22


class Recommender(Protocol):
    """Scores posts for users, both given as indices. Scores are finite; only their order in a row matters."""

    def grid(self, users: IntArray, posts: IntArray) -> Scores:
        """Floating (m, k): scores of users int64 (m) for posts int64 (m, k)."""
        ...

    def catalog(self, users: IntArray) -> Scores:
        """Floating (m, p): scores of users int64 (m) for all posts. Call it for `user_chunks`."""
        ...


@dataclass(frozen=True, slots=True)
class Factors:
    """Recommender by inner products of factors.

    Attributes:
        users: float32 (u, d).
        posts: float32 (p, d).
    """

    users: FloatArray
    posts: FloatArray

    def grid(self, users: IntArray, posts: IntArray) -> FloatArray:
        """See Recommender."""
        scores = [np.empty((0, posts.shape[1]), np.float32)]
        scores += [
            np.einsum("md,mkd->mk", self.users[users[some]], self.posts[posts[some]])
            for some in user_chunks(len(users), posts.shape[1] * self.users.shape[1])
        ]
        return np.concatenate(scores)

    def catalog(self, users: IntArray) -> FloatArray:
        """See Recommender."""
        scores: FloatArray = self.users[users] @ self.posts.T
        return scores


@dataclass(frozen=True, slots=True)
class WithFallback:
    """One recommender for known users and a fallback for the rest, as in the server.

    Attributes:
        known: bool (u), the users of `personal`.
        personal: Recommender for known users.
        fallback: Recommender for the rest.
    """

    known: BoolArray
    personal: Recommender
    fallback: Recommender

    def grid(self, users: IntArray, posts: IntArray) -> Scores:
        """See Recommender."""
        known = self.known[users]
        scores = np.empty(posts.shape)
        scores[known] = self.personal.grid(users[known], posts[known])
        scores[~known] = self.fallback.grid(users[~known], posts[~known])
        return scores

    def catalog(self, users: IntArray) -> Scores:
        """See Recommender."""
        known = self.known[users]
        if known.all():
            return self.personal.catalog(users)
        fallback = self.fallback.catalog(users[~known])
        scores = np.empty((len(users), fallback.shape[1]))
        scores[~known] = fallback
        scores[known] = self.personal.catalog(users[known])
        return scores


def user_chunks(users: int, width: int) -> Iterator[slice]:
    """Slices of users with about SCORES_AT_ONCE values each, at `width` values a user."""
    size = max(SCORES_AT_ONCE // max(width, 1), 1)
    return (slice(start, min(start + size, users)) for start in range(0, users, size))
