"""Matrix factorisation as the library `implicit` does it: iALS, BPR, and logistic."""

from typing import Protocol

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from implicit.cpu.lmf import LogisticMatrixFactorization
from implicit.recommender_base import ModelFitError
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from animora_training.data.dataset import FloatArray
from animora_training.judging.recipe import Choice
from animora_training.judging.recommender import Factors

ALS_ITERATIONS = 12
BPR_ITERATIONS = 60
LOGISTIC_ITERATIONS = 30


class Model(Protocol):
    """What the library's models have in common."""

    user_factors: FloatArray
    item_factors: FloatArray

    def fit(self, user_items: csr_matrix, show_progress: bool) -> None:
        """Fits it; the factors are there afterwards."""
        ...


def fit_ials(histories: csr_matrix, choice: Choice, seed: int) -> Factors:
    """Implicit alternating least squares (Hu, Koren and Volinsky, ICDM 2008).

    Args:
        histories: float32 (u, p).
        choice: factors, regularization, and alpha, by how much a like weighs more than no like.
        seed: Of the factors that it starts from.
    """
    model = AlternatingLeastSquares(
        factors=int(choice["factors"]),
        regularization=choice["regularization"],
        alpha=choice["alpha"],
        iterations=ALS_ITERATIONS,
        random_state=seed,
    )
    return _fit(model, histories)


def fit_bpr(histories: csr_matrix, choice: Choice, seed: int) -> Factors:
    """Bayesian personalised ranking with biases of the posts (Rendle et al., UAI 2009).

    On one thread: on several they write over one another, and no two fits are alike.
    """
    model = BayesianPersonalizedRanking(
        factors=int(choice["factors"]),
        regularization=choice["regularization"],
        learning_rate=choice["learning_rate"],
        iterations=BPR_ITERATIONS,
        random_state=seed,
        num_threads=1,
    )
    return _fit(model, histories)


def fit_logistic(histories: csr_matrix, choice: Choice, seed: int) -> Factors:
    """Logistic matrix factorisation with sampled negatives (Johnson 2014), on one thread as above."""
    model = LogisticMatrixFactorization(
        factors=int(choice["factors"]),
        regularization=choice["regularization"],
        learning_rate=choice["learning_rate"],
        iterations=LOGISTIC_ITERATIONS,
        random_state=seed,
        num_threads=1,
    )
    return _fit(model, histories)


def _fit(model: Model, histories: csr_matrix) -> Factors:
    """Fits a model; where it diverges, all scores are zero, so that tuning goes elsewhere."""
    users, posts = histories.shape
    # The library's own threads and those of BLAS would fight for the cores.
    with threadpool_limits(1, "blas"):
        try:
            model.fit(histories, show_progress=False)
            factors = Factors(np.asarray(model.user_factors), np.asarray(model.item_factors))
        except ModelFitError:
            factors = None
    if factors is not None and np.isfinite(factors.users).all() and np.isfinite(factors.posts).all():
        return factors
    return Factors(np.zeros((users, 1), np.float32), np.zeros((posts, 1), np.float32))
