"""What the GMF branch starts from: implicit alternating least squares (Hu, Koren and Volinsky 2008)."""

from dataclasses import dataclass

import numpy as np
import torch
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits
from torch import Tensor

from animora_training.learning.config import FitConfig
from animora_training.learning.training_set import TrainingSet

USERS_AT_ONCE = 1 << 14


@dataclass(frozen=True, slots=True)
class Factorisation:
    """Factors whose product is about 1 for a positive pair and 0 for others.

    Attributes:
        users: float32 (user rows, factors); row 0 is zeros.
        posts: float32 (post rows, factors); row 0 is zeros.
    """

    users: Tensor
    posts: Tensor


def factorize(data: TrainingSet, config: FitConfig, regularisation: float) -> Factorisation:
    """Factors of the matrix that is 1 where a user has interacted with a post and 0 elsewhere.

    Of more than `als_pairs` positives, the posts' factors are learnt from the first users of a random order,
    as many as have about so many positives; each other user's factors are solved for given the posts'.

    Args:
        data: The positives.
        config: Factors, weight of a positive, iterations, seed.
        regularisation: L2.
    """
    rng = np.random.default_rng(config.seed)
    order = 1 + rng.permutation(data.users - 1)
    lengths = np.diff(data.offsets.numpy())
    enough = 1 + np.searchsorted(np.cumsum(lengths[order]), config.als_pairs)
    learnt_from = np.sort(order[:enough])
    users = np.zeros((data.users, config.factors), np.float32)
    # Both know how to use all cores; at once they would fight for them.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=config.factors,
            regularization=regularisation,
            alpha=config.als_alpha,
            iterations=config.als_iterations,
            random_state=config.seed,
        )
        model.fit(_matrix(data, learnt_from), show_progress=False)
        users[learnt_from] = model.user_factors
        others = np.sort(order[enough:])
        for start in range(0, len(others), USERS_AT_ONCE):
            some = others[start : start + USERS_AT_ONCE]
            users[some] = model.recalculate_user(np.arange(len(some)), _matrix(data, some))
    posts = np.array(model.item_factors)
    posts[0] = 0.0
    return Factorisation(torch.from_numpy(users), torch.from_numpy(posts))


def _matrix(data: TrainingSet, users: np.ndarray) -> csr_matrix:
    """The users' rows of the matrix, float32 (b, post rows)."""
    posts, lengths = data.histories(torch.from_numpy(users))
    indptr = np.concatenate(([0], np.cumsum(lengths.numpy())))
    ones = np.ones(len(posts), np.float32)
    return csr_matrix((ones, posts.numpy().astype(np.int32), indptr), shape=(len(users), len(data.counts)))
