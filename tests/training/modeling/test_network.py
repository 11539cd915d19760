import numpy as np
import pytest
import torch

from animora_training.modeling.network import NetworkShape, NeuCF, shortened
from tests.support.networks import inputs, random_network


def by_hand(network, user, post, image, caption):
    """The definition in NumPy, for one pair."""
    weights = {name: value.double().numpy() for name, value in network.state_dict().items()}

    def features(branch):
        scales = {"image": 0.5, "caption": 2.0}
        projected = []
        for name, embedding in (("image", image), ("caption", caption)):
            scaled = scales[name] * embedding
            scaled *= min(1.0, 3.0 / max(float(np.linalg.norm(scaled)), 1e-9))
            projected.append(np.maximum(scaled @ weights[f"{branch}_features.{name}"], 0))
        return weights[f"{branch}_features.output.weight"] @ np.concatenate(projected)

    factors = network.shape.factors
    user_row, post_row = weights["user_table"][user], weights["post_table"][post]
    added = np.concatenate((features("gmf"), features("mlp")))
    gmf = user_row[:factors] @ (post_row + added)[:factors]
    biases = user_row[factors] + (post_row + added)[factors] + weights["bias"][0]
    hidden = np.concatenate((user_row[factors + 1 :], (post_row + added)[factors + 1 :]))
    for layer in ("first", "tower.0"):
        hidden = np.maximum(weights[f"{layer}.weight"] @ hidden + weights[f"{layer}.bias"], 0)
    return gmf + weights["mlp_weight"] @ hidden + biases


def test_the_network_equals_its_definition():
    network = random_network()
    pairs = inputs(network, 12)
    expected = [
        by_hand(
            network, *(column[row].double().numpy().astype(column[row].numpy().dtype) for column in pairs)
        )
        for row in range(12)
    ]
    np.testing.assert_allclose(network(*pairs).detach(), expected, rtol=1e-5, atol=1e-5)


def test_only_embeddings_much_longer_than_most_are_shortened():
    embeddings = torch.tensor([[3.0, 4.0], [0.0, 0.0], [60_000.0, 0.0]])
    torch.testing.assert_close(shortened(embeddings, 6.0), torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 0.0]]))
    half = shortened(embeddings.half(), 6.0)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), shortened(embeddings, 6.0), rtol=1e-3, atol=1e-3)
    assert shortened(torch.zeros(4, 0), 3.0).shape == (4, 0)


@pytest.mark.parametrize("hidden", [(7, 5), (4,), (8, 4, 2)])
def test_pairs_scored_from_precomputed_vectors_have_the_same_logits(hidden):
    network = random_network(hidden=hidden)
    users, posts, image, caption = inputs(network, 40)
    expected = network(users, posts, image, caption)
    # What depends on the post's row and on its features may be added before or after: all is linear here.
    post_vectors = network.post_vectors(network.post_table[posts])
    post_vectors = post_vectors + network.post_vectors(network.features(image, caption))
    user_vectors = network.user_vectors(network.user_table[users])
    logits = network.score_pairs(user_vectors, post_vectors)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    everyone = network.score_all_pairs(user_vectors, post_vectors)
    assert everyone.shape == (40, 40)
    torch.testing.assert_close(everyone.diagonal(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(everyone[3], network.score_pairs(user_vectors[3].expand(40, -1), post_vectors))


def test_absent_embeddings_add_exactly_nothing():
    network = random_network()
    users, posts, image, caption = inputs(network, 30)
    image, caption = torch.zeros_like(image), torch.zeros_like(caption)
    assert not network.features(image, caption).any()
    without = random_network(image=0, caption=0)
    without.load_state_dict(
        {
            **network.state_dict(),
            **{name: value for name, value in without.state_dict().items() if "_features" in name},
        }
    )
    nothing = torch.zeros(30, 0)
    assert torch.equal(network(users, posts, image, caption), without(users, posts, nothing, nothing))


def test_an_untrained_network_is_exactly_neumf():
    shape = NetworkShape(4, 4, 3, 5, (7,), 4, image=6, caption=4)
    torch.manual_seed(0)
    network = NeuCF(shape)
    users, posts, image, caption = (
        column % 4 if column.dtype == torch.int64 else column for column in inputs(network, 20)
    )
    plain = network(users, posts, torch.zeros_like(image), torch.zeros_like(caption))
    assert torch.equal(network(users, posts, image, caption), plain)


def test_a_rescaled_network_gives_scaled_logits():
    network = random_network()
    pairs = inputs(network, 12)
    before = network(*pairs)
    assert torch.allclose(network.rescaled(0.7, -1.25)(*pairs), 0.7 * before - 1.25, atol=1e-5)
