import numpy as np
import pytest
from scipy.sparse import csr_matrix

from animora_training.evaluation.ease import fit_ease


@pytest.fixture
def histories():
    return csr_matrix((np.random.default_rng(0).random((40, 12)) < 0.3).astype(np.float32))


def test_weights_are_those_of_the_paper(histories):
    ease = fit_ease(histories, 3.0)
    dense = histories.toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + 3.0 * np.eye(12))
    weights = np.eye(12) - inverse / np.diag(inverse)
    assert np.abs(np.diag(weights)).max() < 1e-12
    users = np.array([3, 0, 3])
    assert ease.catalog(users) == pytest.approx(dense[users] @ weights, abs=1e-5)


def test_they_solve_the_regression_without_the_diagonal(histories):
    # The gradient of |X - XB|² + λ|B|² vanishes off the diagonal, which is constrained to zero.
    dense = histories.toarray().astype(np.float64)
    identity = csr_matrix(np.eye(12, dtype=np.float32))
    weights = fit_ease(histories, 3.0)
    matrix = type(weights)(identity, weights._weights).catalog(np.arange(12)).astype(np.float64)
    gradient = dense.T @ (dense @ matrix - dense) + 3.0 * matrix
    assert np.abs(gradient - np.diag(np.diag(gradient))).max() < 1e-4


def test_a_grid_has_the_scores_of_the_catalog(histories):
    ease = fit_ease(histories, 3.0)
    posts = np.array([[1, 5], [11, 0]])
    users = np.array([7, 2])
    assert (ease.grid(users, posts) == np.take_along_axis(ease.catalog(users), posts, axis=1)).all()
