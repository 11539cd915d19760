from dataclasses import replace

import numpy as np
import pytest
import torch

from animora_training.errors import NotFinite
from animora_training.modeling.config import FitConfig
from animora_training.modeling.factorisation import AlsSettings, Factorisation, factorize
from animora_training.modeling.training_set import training_set
from tests.support.datasets import as_dataset, tiny_feed

CONFIG = FitConfig(factors=4, als_iterations=20)
ALPHA, L2 = 10.0, 3.0
STRENGTH = AlsSettings(ALPHA, L2)
FEW = replace(CONFIG, als_iterations=3)


@pytest.fixture(scope="module")
def data():
    dataset = as_dataset(tiny_feed())
    return training_set(dataset, dataset.pairs)


@pytest.fixture(scope="module")
def factors(data):
    return factorize(data, CONFIG, STRENGTH)


def best(liked, others):
    """What minimises the weighted squares (Hu, Koren and Volinsky 2008, equation 4)."""
    mine = others[liked]
    weighted = others.T @ others + (ALPHA - 1) * mine.T @ mine + L2 * np.eye(others.shape[1])
    return np.linalg.solve(weighted, ALPHA * mine.sum(axis=0))


def test_each_side_is_optimal_given_the_other(data, factors):
    users, posts = (side.numpy().astype(np.float64) for side in (factors.users, factors.posts))
    assert not users[0].any()
    assert not posts[0].any()
    for row in (3, 17):
        liked, _ = data.histories(torch.tensor([row]))
        assert users[row] == pytest.approx(best(liked.numpy(), posts), rel=0.05, abs=0.02)
    for row in (2, 9):
        likers = [
            user for user in range(1, data.users) if row in data.histories(torch.tensor([user]))[0].tolist()
        ]
        assert likers
        assert posts[row] == pytest.approx(best(likers, users), rel=0.05, abs=0.02)


def test_a_factorisation_from_earlier_factors_keeps_them_and_adds_new_rows(data, factors):
    user, post = 5, 9
    users, posts = factors.users.clone(), factors.posts.clone()
    users[user], posts[post] = 0.0, 0.0
    again = factorize(data, FEW, STRENGTH, Factorisation(users, posts, STRENGTH))
    assert not users[user].any()  # the earlier factors are not modified
    assert not posts[post].any()
    for before, after in ((factors.users, again.users), (factors.posts, again.posts)):
        assert torch.linalg.norm(after - before) < 0.15 * torch.linalg.norm(before)
    assert again.users[user].numpy() == pytest.approx(factors.users[user].numpy(), rel=0.2, abs=0.1)
    assert again.posts[post].numpy() == pytest.approx(factors.posts[post].numpy(), rel=0.2, abs=0.1)


def test_any_number_of_threads_gives_the_same_factors(data, factors):
    for threads in (1, 3):
        found = factorize(data, CONFIG, STRENGTH, threads=threads)
        assert torch.equal(found.users, factors.users)
        assert torch.equal(found.posts, factors.posts)


def test_another_seed_gives_other_axes(data, factors):
    other = factorize(data, replace(CONFIG, seed=1), STRENGTH)
    assert torch.linalg.norm(other.posts - factors.posts) > 0.5 * torch.linalg.norm(factors.posts)


def test_a_regularisation_beyond_32_bits_is_an_error(data):
    with pytest.raises(NotFinite, match=r"als_regularisation=1e\+39: choose smaller ones"):
        factorize(data, FEW, AlsSettings(ALPHA, 1e39))
