"""Recommenders for tests."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Table:
    """A recommender with given scores (u, p)."""

    scores: np.ndarray

    def grid(self, users, posts):
        return np.take_along_axis(self.scores[users], posts, axis=1)

    def catalog(self, users):
        return self.scores[users]

    def knows(self, users):
        return ~np.isnan(self.scores[users]).any(axis=1)


def random_table(users, posts, seed=0, levels=7):
    """Random scores with ties: a limited number of levels."""
    return Table(np.random.default_rng(seed).integers(0, levels, (users, posts)).astype(np.float32))
