from itertools import islice

import numpy as np
import pytest
import torch

from animora_training.errors import NothingToLearn
from animora_training.learning.config import FitConfig
from animora_training.learning.trainer import TrainingStep, epochs, learning_rate, new_network
from animora_training.learning.training_set import training_set
from tests.training.networks import randomised
from tests.training.worlds import as_dataset, dataset, tiny_feed

CONFIG = FitConfig(batch_positives=128, max_epochs=4, seed=3)


@pytest.fixture(scope="module")
def data():
    tiny = as_dataset(tiny_feed())
    return training_set(tiny, tiny.pairs())


def test_only_users_and_posts_with_interactions_have_rows():
    tiny = dataset([(20, 300, 1.0), (40, 300, 2.0), (40, 600, 3.0)], deleted=(600,))
    rows = training_set(tiny, tiny.pairs())
    assert rows.vocabulary.user_ids.tolist() == [20, 40]
    assert rows.vocabulary.post_ids.tolist() == [300, 600]
    assert sorted(zip(rows.users.tolist(), rows.posts.tolist(), strict=True)) == [(1, 1), (2, 1), (2, 2)]
    assert rows.negatives.tolist() == [1]  # a deleted post trains, but is never drawn
    assert rows.counts.tolist() == [0, 2, 1]
    assert not rows.image[0].any()
    assert torch.equal(rows.image[1:], torch.from_numpy(tiny.posts.image[[2, 5]]))


def test_without_a_live_post_there_is_nothing_to_learn():
    tiny = dataset([(20, 300, 1.0)], deleted=(300,))
    with pytest.raises(NothingToLearn, match=r"animora\.interactions"):
        training_set(tiny, tiny.pairs())


def test_the_loss_falls(data):
    losses = [epoch.loss for epoch in islice(epochs(data, CONFIG), 4)]
    assert losses[-1] < 0.8 * losses[0]


def test_the_seed_decides_everything(data):
    states = [
        next(islice(epochs(data, config), 1, None))
        for config in (CONFIG, CONFIG, FitConfig(batch_positives=128, max_epochs=4, seed=4))
    ]
    first, again, other = (epoch.network.state_dict() for epoch in states)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["output.weight"], other["output.weight"])


def test_training_leaves_the_callers_random_state_alone(data):
    before = torch.get_rng_state()
    next(epochs(data, CONFIG))
    assert torch.equal(before, torch.get_rng_state())


def test_the_unknown_row_and_the_features_are_trained(data):
    start = new_network(data, CONFIG)
    network = next(epochs(data, CONFIG)).network
    assert not torch.equal(start.post_gmf.weight[0], network.post_gmf.weight[0])
    assert network.gmf_features.output.weight.any()
    assert network.mlp_features.output.weight.any()


@pytest.mark.parametrize("batch", [4, 128])
def test_a_step_gives_the_loss_of_the_network_as_defined(data, batch):
    """Whether all posts are encoded (a large batch) or the distinct ones (a small one)."""
    config = FitConfig(drop_rate=0.0, drop_scale=0.0, negatives=2)
    network = randomised(new_network(data, config))
    positives = torch.arange(batch)
    step = TrainingStep(data, network, config, torch.Generator().manual_seed(1))
    posts, dropped = step.draw(positives)
    assert not dropped.any()
    users = data.users[positives][:, None].expand_as(posts).flatten()
    rows = posts.flatten()
    logits = network(users, rows, data.image[rows], data.caption[rows]).view(posts.shape)
    wanted = torch.zeros_like(logits)
    wanted[:, 0] = 1.0
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
    same = TrainingStep(data, network, config, torch.Generator().manual_seed(1))
    torch.testing.assert_close(same.loss(positives), expected)


def test_where_ids_are_dropped_posts_are_the_unknown_row_and_their_embeddings(data):
    config = FitConfig(drop_rate=0.999999, drop_scale=0.0, negatives=1)
    network = randomised(new_network(data, config))
    positives = torch.arange(64)
    step = TrainingStep(data, network, config, torch.Generator().manual_seed(1))
    posts, dropped = step.draw(positives)
    assert dropped.all()
    users, rows = data.users[positives][:, None].expand_as(posts).flatten(), posts.flatten()
    logits = network(users, torch.zeros_like(rows), data.image[rows], data.caption[rows]).view(posts.shape)
    wanted = torch.tensor([1.0, 0.0]).expand_as(logits)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
    same = TrainingStep(data, network, config, torch.Generator().manual_seed(1))
    torch.testing.assert_close(same.loss(positives), expected)


def test_embeddings_of_any_length_start_alike(data):
    network = new_network(data, CONFIG)
    assert network.shape.image_scale == pytest.approx(1.0, abs=0.01)
    tiny = as_dataset(tiny_feed())
    tiny.posts.image[:] *= 50
    tiny.posts.caption[:] = 0
    longer = new_network(training_set(tiny, tiny.pairs()), CONFIG).shape
    assert longer.image_scale * 50 == pytest.approx(1.0, abs=0.01)
    assert longer.caption_scale == 1.0


def test_the_learning_rate_rises_then_falls_to_zero():
    config = FitConfig(learning_rate=0.1, warmup_epochs=1.0, max_epochs=10)
    rates = [learning_rate(config, epoch) for epoch in np.linspace(0, 10, 101)]
    peak = int(np.argmax(rates))
    assert 5 <= peak <= 15
    assert 0 < rates[0] < 0.01
    assert rates[-1] == 0
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()
