"""Implicit alternating least squares (Hu, Koren and Volinsky 2008), the initialization of the GMF branch."""

from dataclasses import dataclass

import numpy as np
import torch
from implicit.als import AlternatingLeastSquares
from implicit.recommender_base import ModelFitError
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits
from torch import Tensor

from animora_training.data.dataset import FloatArray, IntArray
from animora_training.errors import NotFinite
from animora_training.memory import explain_out_of_memory
from animora_training.modeling.config import FitConfig
from animora_training.modeling.training_set import TrainingSet


@dataclass(frozen=True, slots=True)
class AlsSettings:
    """Settings of the alternating least squares (ALS).

    Attributes:
        alpha: Weight of a positive; every other pair weighs 1.
        regularisation: L2 on the factors.
    """

    alpha: float
    regularisation: float


@dataclass(frozen=True, slots=True)
class Factorisation:
    """Factors whose inner product is about 1 for a positive pair and 0 for other pairs.

    Attributes:
        users: float32 (user rows, factors); row 0 is zeros.
        posts: float32 (post rows, factors); row 0 is zeros.
        settings: The ALS settings.
    """

    users: Tensor
    posts: Tensor
    settings: AlsSettings


@explain_out_of_memory("the factorisation", "lower factors or pairs_in_memory by --set")
def factorize(
    data: TrainingSet,
    config: FitConfig,
    settings: AlsSettings,
    earlier: Factorisation | None = None,
    threads: int = 0,
) -> Factorisation:
    """Factorises the matrix that is 1 where a user has interacted with a post and 0 elsewhere.

    With more than `pairs_in_memory` positives, the posts' factors are solved from a random sample of users
    with about that many; the factors of the remaining users are then solved for fixed post factors.

    Args:
        data: The positives.
        config: Factors, iterations, seed.
        settings: ALS settings.
        earlier: Factors of the data's rows to start from, with zeros in new rows; random by default. A few
            iterations do not rotate them, so the axes stay the same.
        threads: Number of threads; 0 for OpenMP's default. The result does not depend on it.

    Raises:
        NotFinite: The settings are too large for float32.
        OutOfMemory: The factors or the matrix do not fit into memory.
    """
    rng = np.random.default_rng(config.seed)
    order = 1 + rng.permutation(data.users - 1)
    lengths = np.diff(data.offsets.numpy())
    enough = 1 + np.searchsorted(np.cumsum(lengths[order]), config.pairs_in_memory)
    learnt_from = np.sort(order[:enough])
    users = np.zeros((data.users, config.factors), np.float32)
    # implicit and BLAS would each start a thread a core.
    with threadpool_limits(1, "blas"):
        model = _model(config, settings, threads)
        if earlier is not None:
            model.user_factors = earlier.users.numpy()[learnt_from]
            model.item_factors = earlier.posts.numpy().copy()
        try:
            with np.errstate(all="ignore"):  # implicit checks the result
                model.fit(_matrix(data, learnt_from), show_progress=False)
        except ModelFitError as error:
            raise NotFinite(
                f"the factorisation's numbers are not finite with als_alpha={settings.alpha:g} and "
                f"als_regularisation={settings.regularisation:g}: choose smaller ones, or have them tuned"
            ) from error
        users[learnt_from] = model.user_factors
        others = np.sort(order[enough:])
        _solve_users(model, data, others, users)
    posts = np.array(model.item_factors)
    posts[0] = 0.0
    return Factorisation(torch.from_numpy(users), torch.from_numpy(posts), settings)


def _model(config: FitConfig, settings: AlsSettings, threads: int) -> AlternatingLeastSquares:
    return AlternatingLeastSquares(
        factors=config.factors,
        regularization=settings.regularisation,
        alpha=settings.alpha,
        iterations=config.als_iterations,
        num_threads=threads,
        random_state=config.seed,
        use_gpu=False,  # on a GPU the factors are not NumPy arrays
    )


def _solve_users(
    model: AlternatingLeastSquares, data: TrainingSet, rows: IntArray, users: FloatArray
) -> None:
    """Solves the factors of users at rows int64 (b) for fixed post factors, in place."""
    for piece in data.pieces(torch.from_numpy(rows)):
        some = piece.numpy()
        users[some] = model.recalculate_user(np.arange(len(some)), _matrix(data, some))


def _matrix(data: TrainingSet, users: IntArray) -> csr_matrix:
    """The users' rows of the matrix, float32 (b, post rows)."""
    posts, lengths = data.histories(torch.from_numpy(users))
    indptr = np.concatenate(([0], np.cumsum(lengths.numpy())))
    ones = np.ones(len(posts), np.float32)
    return csr_matrix((ones, posts.numpy().astype(np.int32), indptr), shape=(len(users), len(data.counts)))
