import numpy as np
import pytest
import torch

from animora_training.learning.config import FitConfig
from animora_training.learning.factorisation import Factorisation, NewRows, Strength, factorize, fold_in
from animora_training.learning.training_set import training_set
from tests.training.worlds import as_dataset, tiny_feed

CONFIG = FitConfig(factors=4, als_iterations=20)
ALPHA, L2 = 10.0, 3.0
STRENGTH = Strength(ALPHA, L2)


@pytest.fixture(scope="module")
def data():
    dataset = as_dataset(tiny_feed())
    return training_set(dataset, dataset.pairs)


@pytest.fixture(scope="module")
def known(data):
    return factorize(data, CONFIG, STRENGTH)


def best(liked, others):
    """What minimises the weighted squares (Hu, Koren and Volinsky 2008, equation 4)."""
    mine = others[liked]
    weighted = others.T @ others + (ALPHA - 1) * mine.T @ mine + L2 * np.eye(others.shape[1])
    return np.linalg.solve(weighted, ALPHA * mine.sum(axis=0))


def test_new_users_are_solved_for_given_the_posts(data, known):
    users = torch.tensor([3, 17])
    forgotten = known.users.clone()
    forgotten[users] = 7.0
    folded = fold_in(
        Factorisation(forgotten, known.posts),
        NewRows(users, torch.empty(0, dtype=torch.long)),
        data,
        CONFIG,
        STRENGTH,
    )
    assert torch.equal(folded.posts, known.posts)
    others = [row for row in range(data.users) if row not in users]
    assert torch.equal(folded.users[others], known.users[others])
    for row in users.tolist():
        liked, _ = data.histories(torch.tensor([row]))
        expected = best(liked.numpy(), known.posts.numpy().astype(np.float64))
        assert folded.users[row].numpy() == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_new_posts_are_solved_for_given_those_who_like_them_and_count_for_new_users(data, known):
    users, posts = torch.tensor([5]), torch.tensor([2, 9])
    folded = fold_in(known, NewRows(users, posts), data, CONFIG, STRENGTH)
    others = [row for row in range(len(data.counts)) if row not in posts]
    assert torch.equal(folded.posts[others], known.posts[others])
    blind = known.posts.numpy().astype(np.float64)
    blind[posts.numpy()] = 0.0
    liked, _ = data.histories(users)
    seen = known.users.numpy().astype(np.float64)
    seen[5] = best(liked.numpy(), blind)
    for row in posts.tolist():
        likers = [
            user for user in range(1, data.users) if row in data.histories(torch.tensor([user]))[0].tolist()
        ]
        assert likers
        assert folded.posts[row].numpy() == pytest.approx(best(likers, seen), rel=1e-3, abs=1e-4)
    expected = best(liked.numpy(), folded.posts.numpy().astype(np.float64))
    assert folded.users[5].numpy() == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_folding_back_in_comes_to_about_what_was_forgotten(data, known):
    """The alternation has nearly converged, so half a step changes little."""
    every = NewRows(torch.arange(1, 20), torch.arange(1, 10))
    folded = fold_in(known, every, data, CONFIG, STRENGTH)
    liked = [data.histories(torch.tensor([user]))[0] for user in range(1, 20)]
    products = [float((known.users[u + 1] @ known.posts[posts].T).mean()) for u, posts in enumerate(liked)]
    again = [float((folded.users[u + 1] @ folded.posts[posts].T).mean()) for u, posts in enumerate(liked)]
    assert np.mean(again) == pytest.approx(np.mean(products), rel=0.1)
