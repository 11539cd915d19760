import numpy as np
import pytest

from animora_training.judging.matrix_factorization import fit_bpr, fit_ials, fit_logistic
from animora_training.judging.measures import expected_ndcg
from animora_training.judging.ranking import rank_catalog
from animora_training.judging.recommender import Factors
from animora_training.judging.tuning import hold_out
from tests.training.worlds import as_dataset, tiny_feed

CHOICES = {
    fit_ials: {"factors": 8, "regularization": 4.0, "alpha": 4.0},
    fit_bpr: {"factors": 8, "regularization": 0.1, "learning_rate": 0.02},
    fit_logistic: {"factors": 8, "regularization": 1.0, "learning_rate": 0.5},
}


@pytest.fixture(scope="module")
def data():
    return as_dataset(tiny_feed())


@pytest.fixture(scope="module")
def held_out(data):
    return hold_out(data, data.pairs, seed=0)


@pytest.mark.parametrize("fit", CHOICES)
def test_equal_seeds_give_equal_scores(held_out, fit):
    users = np.arange(10)
    first, again = (fit(held_out.histories, CHOICES[fit], 5).catalog(users) for _ in range(2))
    assert (first == again).all()
    assert (first != fit(held_out.histories, CHOICES[fit], 6).catalog(users)).any()
    posts = np.array([[3, 0]] * 10)
    assert fit(held_out.histories, CHOICES[fit], 5).grid(users, posts) == pytest.approx(
        first[:, [3, 0]], abs=1e-5
    )


@pytest.mark.parametrize("fit", CHOICES)
def test_each_learns_something(data, held_out, fit):
    rng = np.random.default_rng(0)
    users, posts = (rng.normal(size=(count, 4)).astype(np.float32) for count in held_out.histories.shape)
    learnt, chance = (
        expected_ndcg(rank_catalog(one, held_out.task, data.posts))
        for one in (fit(held_out.histories, CHOICES[fit], 0), Factors(users, posts))
    )
    assert learnt > 2 * chance


def test_what_diverges_scores_zero(held_out):
    scores = fit_bpr(held_out.histories, {**CHOICES[fit_bpr], "learning_rate": 1e9}, 0).catalog(np.arange(3))
    assert (scores == 0).all()
