"""Explain terms compared with the trained network and with Shapley's definition."""

from itertools import permutations
from math import factorial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from animora_server.inference.explanation import explain
from animora_training.pipeline.export import FoldedNeuCF
from tests.support.artifacts import tiny_artifact
from tests.support.networks import inputs, random_network

USER = 3
GMF, MLP_USER, MLP, BIAS = slice(0, 3), 3, slice(4, 7), 7
PAIRS = 24


def explained(network, posts, image, caption, user=USER):
    with torch.inference_mode():
        return explain(FoldedNeuCF(network), user, posts, image, caption)


def parts_of_posts(network, posts, image, caption):
    """For each branch the contributions of id, image and caption to the post vectors: three (m, width)."""
    no_image, no_caption = torch.zeros_like(image), torch.zeros_like(caption)
    gmf = network.shape.factors + 1  # the post's bias belongs to the GMF branch
    for columns, features in (
        (slice(gmf), network.gmf_features),
        (slice(gmf, None), network.mlp_features),
    ):
        yield [
            network.post_table[posts, columns],
            features(image, no_caption),
            features(no_image, caption),
        ]


def mlp_branch(network, post_vectors):
    user = network.user_table[USER, network.shape.factors + 1 :].expand(len(post_vectors), -1)
    return (
        network.tower(torch.relu(network.first(torch.cat((user, post_vectors), dim=1)))) @ network.mlp_weight
    )


@pytest.mark.parametrize("hidden", [(7,), (7, 5), (16, 8, 4)])
def test_the_mlp_terms_are_the_mean_marginal_contributions_over_all_orders_of_the_parts(hidden):
    network = random_network(hidden=hidden)
    _, posts, image, caption = inputs(network, PAIRS)
    terms = explained(network, posts, image, caption)
    with torch.inference_mode():
        _, parts = parts_of_posts(network, posts, image, caption)
        nothing = torch.zeros_like(parts[0])
        expected = torch.zeros(PAIRS, 3)
        for order in permutations(range(3)):
            vectors = nothing
            for part in order:
                extended = vectors + parts[part]
                expected[:, part] += mlp_branch(network, extended) - mlp_branch(network, vectors)
                vectors = extended
        empty = mlp_branch(network, nothing)
    assert terms[:, MLP] == pytest.approx((expected / factorial(3)).numpy(), abs=1e-5)
    assert terms[:, MLP_USER] == pytest.approx(empty.numpy(), abs=1e-5)


def test_the_gmf_terms_are_each_parts_product_with_the_user_and_its_share_of_the_posts_bias():
    network = random_network()
    _, posts, image, caption = inputs(network, PAIRS)
    with torch.inference_mode():
        parts, _ = parts_of_posts(network, posts, image, caption)
        factors = network.shape.factors
        user = torch.cat((network.user_table[USER, :factors], torch.ones(1)))
        expected = torch.stack([part @ user for part in parts], dim=1).numpy()
        bias = float(network.user_table[USER, factors] + network.bias)
    terms = explained(network, posts, image, caption)
    assert terms[:, GMF] == pytest.approx(expected, abs=1e-5)
    assert terms[:, BIAS] == pytest.approx(bias)


@pytest.mark.parametrize(("image_width", "caption_width"), [(6, 4), (6, 0), (0, 4), (0, 0)])
def test_terms_add_up_to_the_logit_of_the_network_as_trained(image_width, caption_width):
    network = random_network(image=image_width, caption=caption_width)
    _, posts, image, caption = inputs(network, PAIRS)
    terms = explained(network, posts, image, caption)
    with torch.inference_mode():
        logits = network(torch.full((PAIRS,), USER), posts, image, caption).numpy()
    assert terms.shape == (PAIRS, 8)
    assert terms.dtype == np.float32
    assert terms.sum(axis=1) == pytest.approx(logits, abs=1e-5)


@pytest.mark.parametrize(("image_width", "caption_width"), [(6, 4), (6, 0), (0, 4), (0, 0)])
def test_the_terms_of_an_absent_part_are_exactly_zero(image_width, caption_width):
    network = random_network(image=image_width, caption=caption_width)
    _, posts, image, caption = inputs(network, 301)
    terms = explained(network, posts, image, caption)
    without_image = (image == 0).all(dim=1).numpy()
    without_caption = (caption == 0).all(dim=1).numpy()
    assert without_image.any()
    assert without_caption.any()
    assert not terms[without_image][:, [1, 5]].any()
    assert not terms[without_caption][:, [2, 6]].any()


def test_an_unknown_posts_id_is_explained_as_the_unknown_id():
    network = random_network()
    image, caption = torch.zeros(1, 6), torch.zeros(1, 4)
    terms = explained(network, torch.tensor([0]), image, caption)
    assert terms[0, 0]
    assert terms[0, 4]


def test_equal_posts_have_equal_terms_and_users_differ():
    network = random_network()
    posts, image, caption = torch.tensor([2, 2]), torch.ones(2, 6), torch.ones(2, 4)
    first, second = explained(network, posts, image, caption)
    assert first == pytest.approx(second, abs=1e-6)
    assert explained(network, posts, image, caption, user=4)[0] != pytest.approx(first, abs=1e-3)


def test_a_scripted_network_can_be_explained():
    network = torch.jit.script(tiny_artifact("v1")[1])
    posts, image, caption = torch.arange(5), torch.ones(5, 3), torch.ones(5, 2)
    with torch.inference_mode():
        terms = explain(network, USER, posts, image, caption)
        table = network.encode_posts(posts, image, caption)
        logits = network.score(torch.tensor([USER]), torch.zeros_like(posts), table, posts).numpy()
    assert terms.sum(axis=1) == pytest.approx(logits, abs=1e-5)
    assert terms[:, MLP_USER] == pytest.approx(-terms[:, BIAS])  # as the tiny network defines it


NETWORK = random_network(seed=1)
POSTS = inputs(NETWORK, 40, seed=1)[1:]
TERMS = explained(NETWORK, *POSTS)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 39), min_size=1, max_size=60))
def test_a_posts_terms_do_not_depend_on_the_other_posts_of_the_request(chosen):
    posts, image, caption = (values[chosen] for values in POSTS)
    assert explained(NETWORK, posts, image, caption) == pytest.approx(TERMS[chosen], abs=1e-6)
