import pytest
import torch

from animora_artifact.vocabulary import RowIndex
from animora_training.modeling.config import FitConfig
from animora_training.modeling.initialization import interpolate, new_initialization
from animora_training.modeling.training_set import training_set
from animora_training.pipeline.holdout import FitHoldOut
from animora_training.pipeline.interpolation import SHARES, evaluate_interpolations
from tests.support.datasets import as_dataset, tiny_feed
from tests.support.networks import randomised

CONFIG = FitConfig(factors=4, hidden=(8,), holdout_negatives=20, embeddings=False)


@pytest.fixture(scope="module")
def holdout():
    return FitHoldOut.of(as_dataset(tiny_feed()).without_embeddings(), CONFIG)


@pytest.fixture(scope="module")
def rows(holdout):
    return training_set(holdout.dataset, holdout.training)


@pytest.fixture(scope="module")
def initial(rows):
    """A network with equal scores for all posts."""
    network = new_initialization(rows, CONFIG).network
    with torch.no_grad():
        network.post_table[:] = 0.0
    return network.eval()


def ideal(network, holdout, rows, gain):
    """Sets the posts' scores to their popularity among the held-out pairs, times a gain."""
    bias = torch.zeros(len(network.post_table))
    ids = holdout.dataset.posts.ids[holdout.held_out.candidates[:, 0]]
    places = torch.from_numpy(RowIndex(rows.vocabulary.post_ids).rows(ids))
    bias.index_add_(0, places, torch.full((len(places),), gain))
    reached = interpolate(network, network, 0.0)
    reached.post_table[:, network.shape.factors] = bias
    return reached


def test_the_trained_network_is_kept_if_every_step_improves(holdout, rows, initial):
    reached = ideal(initial, holdout, rows, gain=1.0)
    result = evaluate_interpolations(holdout, initial, reached, rows.vocabulary)
    assert result.share == 1.0
    assert result == holdout.evaluate(reached, rows.vocabulary)


def test_the_best_interpolation_is_kept_if_the_trained_network_is_worse(holdout, rows, initial):
    good = ideal(initial, holdout, rows, gain=1.0)
    # Up to half of the way, the noise is smaller than the signal; at the end it dominates.
    lost = randomised(interpolate(good, good, 0.0), seed=3)
    lost.user_table *= 0.5
    result = evaluate_interpolations(holdout, good, lost, rows.vocabulary)
    assert result.share == SHARES[-1]
    quarter = holdout.evaluate(interpolate(good, lost, 0.25), rows.vocabulary)
    assert result.choice == quarter.choice
    assert result.metrics == quarter.metrics
    assert result.choice.ndcg > holdout.evaluate(lost, rows.vocabulary).choice.ndcg
