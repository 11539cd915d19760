"""A baseline that has to be tuned: how it is fitted, and what there is to choose."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from animora_training.data.dataset import Interactions
from animora_training.evaluation.recommender import Recommender

Choice = Mapping[str, float]
"""A value for each axis, by name."""


@dataclass(frozen=True, slots=True)
class GridAxis:
    """A hyper-parameter.

    Attributes:
        name: As the recipe's fit takes it.
        values: In ascending order.
        start: Index of the value to begin with.
    """

    name: str
    values: tuple[float, ...]
    start: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a recommender from histories.

    Attributes:
        name: As tables show it.
        axes: What is tuned, the most important first.
        fit: From histories (see history_matrix), a choice and a seed; equal arguments give equal scores.
        max_posts: With more it is left out.
    """

    name: str
    axes: tuple[GridAxis, ...]
    fit: Callable[[csr_matrix, Choice, int], Recommender]
    max_posts: int | None = None


def history_matrix(training: Interactions, posts: int) -> csr_matrix:
    """Float32 (u, p), 1 where there is one of the distinct pairs."""
    shape = (len(training.offsets) - 1, posts)
    ones = np.ones(len(training), np.float32)
    # A copy, for the pairs may be mapped from a file that must not be sorted.
    histories = csr_matrix((ones, training.posts, training.offsets), shape, copy=True)
    histories.sort_indices()
    return histories
