from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, vstack
from scipy.special import expit

from animora_training.evaluation.baselines import PopularityBaseline
from animora_training.evaluation.bootstrap import paired_bootstrap
from animora_training.evaluation.full_ranking import rank_catalog
from animora_training.evaluation.matrix_factorization import LOGISTIC, fit_ials, fit_logistic
from animora_training.evaluation.measures import expected_measures
from animora_training.evaluation.recipe import history_matrix
from animora_training.evaluation.tuning import hold_out
from tests.support.datasets import as_dataset, tiny_feed
from tests.support.synthetic_feed import synthetic_feed

CHOICES = {fit_ials: {"l2": 0.2, "alpha": 5.0}, fit_logistic: {"l2": 4.0}}
SMALL = replace(LOGISTIC, factors=16)


@pytest.fixture(scope="module")
def tiny():
    data = as_dataset(tiny_feed())
    return history_matrix(data.pairs, len(data.posts.ids))


@pytest.fixture(scope="module")
def tasteful():
    return as_dataset(synthetic_feed(0, users=500, posts=400, pairs=20_000))


@pytest.fixture(scope="module")
def held_out(tasteful):
    return hold_out(tasteful, tasteful.pairs, seed=0)


@pytest.fixture(scope="module")
def learnt(held_out):
    return fit_logistic(held_out.histories, {"l2": 4.0}, 0, SMALL)


def ndcg(recommender, held_out):
    """NDCG@10 of each held-out post among 99 others, on average over all draws."""
    return expected_measures(rank_catalog(recommender, held_out.task, held_out.posts))["ndcg@10"]


def log_loss(factors, histories):
    """Of all pairs of those who like something, for each of them."""
    known = np.flatnonzero(np.diff(histories.indptr))
    scores = factors.catalog(known)
    return float(np.logaddexp(0, scores).sum() - (scores * histories[known].toarray()).sum()) / len(known)


@pytest.mark.parametrize("fit", CHOICES)
def test_equal_seeds_give_equal_scores(tiny, fit):
    users = np.arange(10)
    first, again = (fit(tiny, CHOICES[fit], 5).catalog(users) for _ in range(2))
    assert (first == again).all()
    other = fit(tiny, CHOICES[fit], 6)
    assert (first != other.catalog(users)).any()
    posts = np.array([[3, 0]] * 10)
    assert other.grid(users, posts) == pytest.approx(other.catalog(users)[:, [3, 0]], abs=1e-5)


@pytest.mark.parametrize("fit", CHOICES)
def test_matrix_factorization_finds_tastes_that_popularity_misses(tasteful, held_out, fit):
    popularity = PopularityBaseline(tasteful.posts, tasteful.pairs)
    fitted = fit(held_out.histories, CHOICES[fit], 0)
    difference = paired_bootstrap(ndcg(fitted, held_out), ndcg(popularity, held_out))
    assert difference.mean > 0.05
    assert difference.low > 0


def test_the_log_loss_falls_below_that_of_biases_alone(held_out, learnt):
    histories = held_out.histories
    start, sooner = (
        fit_logistic(histories, {"l2": 4.0}, 0, replace(SMALL, epochs=epochs)) for epochs in (0, 10)
    )
    biases = fit_logistic(histories, {"l2": 1e4}, 0, SMALL)  # whose factors have no room
    losses = [log_loss(factors, histories) for factors in (start, biases, sooner, learnt)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[1]


def test_scores_are_log_odds(held_out, learnt):
    liked = held_out.histories[held_out.task.users].toarray()
    probabilities = expit(learnt.catalog(held_out.task.users))
    assert probabilities.sum() == pytest.approx(liked.sum(), rel=0.02)
    # By user and by post, too: that is what the biases are for.
    for axis in (0, 1):
        assert np.corrcoef(probabilities.sum(axis), liked.sum(axis))[0, 1] > 0.95


def test_sampled_posts_estimate_the_loss_of_the_whole_catalog(held_out, learnt):
    drawing = replace(SMALL, whole=100, drawn=160)
    drawn = fit_logistic(held_out.histories, {"l2": 4.0}, 0, drawing)
    assert log_loss(drawn, held_out.histories) == pytest.approx(
        log_loss(learnt, held_out.histories), rel=0.03
    )
    assert ndcg(drawn, held_out).mean() == pytest.approx(ndcg(learnt, held_out).mean(), abs=0.02)


def test_users_without_likes_are_not_trained_on(held_out):
    histories = held_out.histories
    idle = csr_matrix((2000, histories.shape[1]), dtype=np.float32)
    losses = [
        log_loss(fit_logistic(likes, {"l2": 4.0}, 0, SMALL), likes)
        for likes in (histories, vstack((histories, idle), "csr"))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_without_likes_nothing_is_trained():
    nobody = fit_logistic(csr_matrix((3, 4), dtype=np.float32), {"l2": 4.0}, 0)
    assert np.abs(nobody.catalog(np.arange(3))).max() < 0.1


def test_the_number_of_threads_is_restored(tiny):
    before = torch.get_num_threads()
    fit_logistic(tiny, {"l2": 4.0}, 0, replace(SMALL, epochs=1))
    assert torch.get_num_threads() == before
