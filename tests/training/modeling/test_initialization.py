from dataclasses import replace

import numpy as np
import pytest
import torch

from animora_training.modeling.config import FitConfig
from animora_training.modeling.factorisation import AlsSettings, factorize
from animora_training.modeling.initialization import LOGITS, Initialization, interpolate, new_initialization
from animora_training.modeling.training_set import training_set
from tests.support.datasets import as_dataset, tiny_feed
from tests.support.networks import random_network

CONFIG = FitConfig(factors=6, als_iterations=8, seed=2)
STRENGTH = AlsSettings(alpha=20.0, regularisation=5.0)


@pytest.fixture(scope="module")
def tiny():
    return as_dataset(tiny_feed())


@pytest.fixture(scope="module")
def data(tiny):
    return training_set(tiny, tiny.pairs)


@pytest.fixture(scope="module")
def whole(data):
    return factorize(data, CONFIG, STRENGTH)


def liked(data):
    """Bool (user rows, post rows)."""
    matrix = torch.zeros(data.users, len(data.counts), dtype=torch.bool)
    users = torch.arange(data.users).repeat_interleave(data.offsets.diff())
    matrix[users, data.posts.long()] = True
    return matrix


def separation(factorisation, data):
    """The share of positives with a higher product than another pair of the same user."""
    products = factorisation.users @ factorisation.posts.T
    shares = []
    for row in range(1, data.users):
        mine = liked(data)[row, 1:]
        above = products[row, 1:][mine][:, None] > products[row, 1:][~mine]
        shares.append(float(above.float().mean()))
    return np.mean(shares)


def test_positives_have_higher_products_than_other_pairs(whole, data):
    assert separation(whole, data) > 0.9
    assert not whole.users[0].any()
    assert not whole.posts[0].any()
    assert (whole.users.dtype, whole.posts.dtype) == (torch.float32, torch.float32)


def test_the_seed_decides_the_factors(whole, data):
    again = factorize(data, CONFIG, STRENGTH)
    assert torch.equal(whole.users, again.users)
    assert torch.equal(whole.posts, again.posts)
    other = factorize(data, replace(CONFIG, seed=3), STRENGTH)
    assert not torch.equal(whole.posts, other.posts)


def test_post_factors_of_a_sample_of_users_fit_the_other_users_nearly_as_well(whole, data):
    config = replace(CONFIG, pairs_in_memory=len(data.posts) // 2)
    part = factorize(data, config, STRENGTH)
    assert not part.users[0].any()
    assert not part.posts[0].any()
    assert part.users[1:].any(dim=1).all()  # users outside the sample are solved
    assert separation(part, data) > separation(whole, data) - 0.1


def test_users_outside_the_sample_are_solved_exactly(data):
    config = replace(CONFIG, pairs_in_memory=len(data.posts) // 2)
    part = factorize(data, config, STRENGTH)
    wanted, posts = liked(data).double()[1:, 1:], part.posts[1:].double()
    exact = 0
    for user, mine in zip(part.users[1:].double(), wanted, strict=True):
        weights = torch.diag(1 + (STRENGTH.alpha - 1) * mine)
        left = posts.T @ weights @ posts + STRENGTH.regularisation * torch.eye(6, dtype=torch.float64)
        solved = torch.linalg.solve(left, posts.T @ (STRENGTH.alpha * mine))
        exact += bool(torch.allclose(user, solved, rtol=1e-2, atol=1e-3))
    assert exact >= (data.users - 1) / 3


def test_an_initialization_orders_a_users_posts_as_the_factorisation_does(whole, data):
    start = new_initialization(data, CONFIG, whole)
    network = start.network
    users, posts = torch.arange(1, data.users), torch.arange(1, len(data.counts))
    with torch.inference_mode():
        logits = network.score_all_pairs(
            network.user_vectors(network.user_table[users]), network.post_vectors(network.post_table[posts])
        )
    products = LOGITS * whole.users[1:] @ whole.posts[1:].T
    both = torch.stack((logits.flatten(), products.flatten()))
    assert torch.corrcoef(both)[0, 1] > 0.99
    assert not start.history.any()


def test_without_a_factorisation_the_bias_is_the_log_odds_of_a_pair(data):
    network = new_initialization(data, CONFIG).network
    users, posts = torch.arange(1, data.users), torch.ones(data.users - 1, dtype=torch.int64)
    with torch.inference_mode():
        likely = torch.sigmoid(network(users, posts, *(torch.zeros(len(users), 24) for _ in range(2)))).mean()
    share = len(data.posts) / (data.users - 1) / (len(data.counts) - 1)
    assert share / 5 < likely < share


def test_embeddings_of_any_length_are_initialized_alike(data):
    assert new_initialization(data, CONFIG).network.shape.image_scale == pytest.approx(1.0, abs=0.01)
    tiny = as_dataset(tiny_feed())
    tiny.posts.image[:] *= 50
    tiny.posts.caption[:] = 0
    longer = new_initialization(training_set(tiny, tiny.pairs), CONFIG).network.shape
    assert longer.image_scale * 50 == pytest.approx(1.0, abs=0.01)
    assert longer.caption_scale == 1.0


def test_an_embedding_that_is_off_by_orders_of_magnitude_does_not_scale_the_others():
    usual, wrong = as_dataset(tiny_feed()), as_dataset(tiny_feed())
    for embeddings in (wrong.posts.image, wrong.posts.caption):
        embeddings[int(np.argmax(embeddings.any(axis=1))), 0] = 60_000.0
    expected, shape = (
        new_initialization(training_set(one, one.pairs), CONFIG).network.shape for one in (usual, wrong)
    )
    assert shape.image_scale == pytest.approx(expected.image_scale, rel=0.01)
    assert shape.caption_scale == pytest.approx(expected.caption_scale, rel=0.01)


def test_interpolation_between_two_networks_is_linear():
    first, second = random_network(seed=1), random_network(seed=2)
    halfway = interpolate(first, second, 0.5)
    for name, value in halfway.state_dict().items():
        assert torch.allclose(value, (first.state_dict()[name] + second.state_dict()[name]) / 2)
    for share, end in ((0.0, first), (1.0, second)):
        assert all(
            torch.equal(value, end.state_dict()[name])
            for name, value in interpolate(first, second, share).state_dict().items()
        )


def test_interpolation_includes_the_users_histories():
    first, second = (
        Initialization(random_network(seed=seed), torch.full((9, 9), float(seed))) for seed in (1, 2)
    )
    quarter = first.interpolate_to(second, 0.25)
    assert torch.equal(quarter.history, torch.full((9, 9), 1.25))
    between_them = interpolate(first.network, second.network, 0.25)
    assert torch.equal(quarter.network.user_table, between_them.user_table)
