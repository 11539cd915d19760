"""Recipe of a tunable baseline: its fit function and its hyper-parameter grid."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from animora_training.data.dataset import Interactions
from animora_training.evaluation.recommender import Recommender

Choice = Mapping[str, float]
"""A value for each axis, by the axis' name."""


@dataclass(frozen=True, slots=True)
class GridAxis:
    """Grid of a hyper-parameter.

    Attributes:
        name: Name of the hyper-parameter.
        values: In ascending order.
        start: Index of the value to start with.
    """

    name: str
    values: tuple[float, ...]
    start: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """Recipe to fit a recommender on histories.

    Attributes:
        name: Name in tables.
        axes: Hyper-parameters to tune, the most important first.
        fit: Function of histories (see history_matrix), a choice and a seed; deterministic.
        max_posts: Largest catalog that the recipe supports; None for no limit.
    """

    name: str
    axes: tuple[GridAxis, ...]
    fit: Callable[[csr_matrix, Choice, int], Recommender]
    max_posts: int | None = None


def history_matrix(training: Interactions, posts: int) -> csr_matrix:
    """Matrix float32 (u, p) with 1 for each training pair."""
    shape = (len(training.offsets) - 1, posts)
    ones = np.ones(len(training), np.float32)
    # A copy: the pairs may be mapped from a read-only file.
    histories = csr_matrix((ones, training.posts, training.offsets), shape, copy=True)
    histories.sort_indices()
    return histories
