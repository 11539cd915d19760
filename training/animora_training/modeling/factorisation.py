"""What the GMF branch starts from: implicit alternating least squares (Hu, Koren and Volinsky 2008)."""

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
from animora_training.memory import memory_for
from animora_training.modeling.config import FitConfig
from animora_training.modeling.training_set import TrainingSet


@dataclass(frozen=True, slots=True)
class AlsSettings:
    """What a factorisation's likes weigh, and what holds its factors back.

    Attributes:
        alpha: Weight of a positive, beside 1 for every other pair.
        regularisation: L2.
    """

    alpha: float
    regularisation: float


@dataclass(frozen=True, slots=True)
class Factorisation:
    """Factors whose product is about 1 for a positive pair and 0 for others.

    Attributes:
        users: float32 (user rows, factors); row 0 is zeros.
        posts: float32 (post rows, factors); row 0 is zeros.
        strength: With which they were found.
    """

    users: Tensor
    posts: Tensor
    strength: AlsSettings


@memory_for("the factorisation", "lower factors or pairs_in_memory by --set")
def factorize(
    data: TrainingSet,
    config: FitConfig,
    strength: AlsSettings,
    earlier: Factorisation | None = None,
    threads: int = 0,
) -> Factorisation:
    """Factors of the matrix that is 1 where a user has interacted with a post and 0 elsewhere.

    Of more than `pairs_in_memory` positives, the posts' factors are learnt from the first users of a random
    order, as many as have about so many; each other user's factors are solved for given the posts'.

    Args:
        data: The positives.
        config: Factors, iterations, seed.
        strength: See there.
        earlier: Factors of the data's rows to go on from, zeros where there are none; by default chance. The
            axes stay theirs then: a few iterations turn nothing.
        threads: How many to use, which changes nothing else; 0 for what OpenMP takes.

    Raises:
        NotFinite: The strength is too great for 32-bit numbers.
        OutOfMemory: There is no memory for the factors or the matrix.
    """
    rng = np.random.default_rng(config.seed)
    order = 1 + rng.permutation(data.users - 1)
    lengths = np.diff(data.offsets.numpy())
    enough = 1 + np.searchsorted(np.cumsum(lengths[order]), config.pairs_in_memory)
    learnt_from = np.sort(order[:enough])
    users = np.zeros((data.users, config.factors), np.float32)
    # Both know how to use all cores; at once they would fight for them.
    with threadpool_limits(1, "blas"):
        model = _model(config, strength, threads)
        if earlier is not None:
            model.user_factors = earlier.users.numpy()[learnt_from]
            model.item_factors = earlier.posts.numpy().copy()
        try:
            with np.errstate(all="ignore"):  # its end is checked
                model.fit(_matrix(data, learnt_from), show_progress=False)
        except ModelFitError as error:
            raise NotFinite(
                f"the factorisation's numbers are not finite with als_alpha={strength.alpha:g} and "
                f"als_regularisation={strength.regularisation:g}: choose smaller ones, or have them tuned"
            ) from error
        users[learnt_from] = model.user_factors
        others = np.sort(order[enough:])
        _solve_users(model, data, others, users)
    posts = np.array(model.item_factors)
    posts[0] = 0.0
    return Factorisation(torch.from_numpy(users), torch.from_numpy(posts), strength)


def _model(config: FitConfig, strength: AlsSettings, threads: int) -> AlternatingLeastSquares:
    return AlternatingLeastSquares(
        factors=config.factors,
        regularization=strength.regularisation,
        alpha=strength.alpha,
        iterations=config.als_iterations,
        num_threads=threads,
        random_state=config.seed,
        use_gpu=False,  # where implicit finds one, its factors are no arrays
    )


def _solve_users(
    model: AlternatingLeastSquares, data: TrainingSet, rows: IntArray, users: FloatArray
) -> None:
    """Changes the factors of users at rows int64 (b) to those that are best given the posts'."""
    for piece in data.pieces(torch.from_numpy(rows)):
        some = piece.numpy()
        users[some] = model.recalculate_user(np.arange(len(some)), _matrix(data, some))


def _matrix(data: TrainingSet, users: IntArray) -> csr_matrix:
    """The users' rows of the matrix, float32 (b, post rows)."""
    posts, lengths = data.histories(torch.from_numpy(users))
    indptr = np.concatenate(([0], np.cumsum(lengths.numpy())))
    ones = np.ones(len(posts), np.float32)
    return csr_matrix((ones, posts.numpy().astype(np.int32), indptr), shape=(len(users), len(data.counts)))
