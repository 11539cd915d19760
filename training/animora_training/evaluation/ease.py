"""EASE (Steck, WWW 2019): a linear item-item model in closed form."""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import lapack
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from animora_training.data.dataset import FloatArray, IntArray
from animora_training.evaluation.metrics import Scores
from animora_training.evaluation.recommender import user_chunks

# A (posts, posts) matrix is inverted: with 20,000 posts this takes three times 1.6 GB, and minutes.
MAX_POSTS = 20_000
SINGLE_THREAD_BELOW = 2_000  # smaller matrices are inverted faster by one thread
MAX_DOUBLE_POSTS = 10_000  # above, float32 is used to halve the memory


class Ease:
    """Scores a post by the sum of its weights from the posts in the user's history."""

    def __init__(self, histories: csr_matrix, weights: FloatArray) -> None:
        """Stores histories float32 (u, p) and weights float32 (p, p)."""
        self._histories = histories
        self._weights = weights

    def grid(self, users: IntArray, posts: IntArray) -> Scores:
        """See Recommender."""
        scores = [np.empty((0, posts.shape[1]), np.float32)]
        scores += [
            np.take_along_axis(self.catalog(users[some]), posts[some], axis=1)
            for some in user_chunks(len(users), len(self._weights))
        ]
        return np.concatenate(scores)

    def catalog(self, users: IntArray) -> FloatArray:
        """See Recommender."""
        scores: FloatArray = self._histories[users] @ self._weights
        return scores

    def scores(self, histories: Sequence[IntArray]) -> FloatArray:
        """Scores float32 (m, p) for histories of any users, posts int64 (n) each."""
        offsets = np.concatenate(([0], np.cumsum([len(posts) for posts in histories])))
        posts = np.concatenate([np.zeros(0, np.int64), *histories])
        liked = csr_matrix(
            (np.ones(len(posts), np.float32), posts, offsets), (len(histories), len(self._weights))
        )
        scores: FloatArray = liked @ self._weights
        return scores


def fit_ease(histories: csr_matrix, regularization: float) -> Ease:
    """Solves for the weights: B = I - P / diag(P) with P = (XᵀX + λ I)⁻¹ (Steck, WWW 2019, equation 8).

    Args:
        histories: float32 (u, p), 1 where a user liked a post; at most MAX_POSTS posts.
        regularization: λ, positive.
    """
    co_occurrences = (histories.T @ histories).toarray()
    dtype = np.float64 if co_occurrences.shape[0] <= MAX_DOUBLE_POSTS else np.float32
    inverse = _inverse(np.asarray(co_occurrences, dtype, order="F"), regularization)
    scale = -inverse.diagonal().copy()
    inverse /= scale
    np.fill_diagonal(inverse, 0.0)
    return Ease(histories, inverse.astype(np.float32, copy=False))


def _inverse(matrix: Scores, regularization: float) -> Scores:
    """The inverse of a positive definite matrix plus λ I, by Cholesky and in place."""
    matrix[np.diag_indices_from(matrix)] += regularization
    factorise, invert = (
        (lapack.dpotrf, lapack.dpotri) if matrix.dtype == np.float64 else (lapack.spotrf, lapack.spotri)
    )
    inverse: Scores
    with threadpool_limits(1 if len(matrix) < SINGLE_THREAD_BELOW else None, "blas"):
        factor, _ = factorise(matrix, lower=1, overwrite_a=1, clean=0)
        inverse, _ = invert(factor, lower=1, overwrite_c=1)
    # LAPACK fills one triangle; mirror it.
    for row in range(len(inverse)):
        inverse[row, row + 1 :] = inverse[row + 1 :, row]
    return inverse
