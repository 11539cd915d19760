"""What everything that is judged can do: score posts for users."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from animora_training.data.dataset import BoolArray, FloatArray, IntArray
from animora_training.evaluation.metrics import Scores

SCORES_AT_ONCE = 1 << 22


class Recommender(Protocol):
    """Scores of which only the order within a user matters, all finite; users and posts are indices."""

    def grid(self, users: IntArray, posts: IntArray) -> Scores:
        """Floating (m, k): scores of users int64 (m) and each one's posts int64 (m, k)."""
        ...

    def catalog(self, users: IntArray) -> Scores:
        """Floating (m, p): scores of users int64 (m) and all posts; ask for user_chunks at a time."""
        ...


@dataclass(frozen=True, slots=True)
class Factors:
    """Scores that are inner products.

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
    """One recommender for the users whom it knows and another for the rest, as the server does it.

    Attributes:
        known: bool (u), the users of the first one.
        personal: For them.
        fallback: For all others.
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
    """Slices that cover the users, so that each has about SCORES_AT_ONCE numbers of `width` a user."""
    size = max(SCORES_AT_ONCE // max(width, 1), 1)
    return (slice(start, min(start + size, users)) for start in range(0, users, size))
