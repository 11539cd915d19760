from dataclasses import replace
from math import nan

import pytest

from animora_training.modeling.config import FitConfig
from animora_training.pipeline.early_stopping import EarlyStopping
from tests.support.datasets import as_dataset, tiny_feed

STOPPING = EarlyStopping(max_epochs=9, patience=2)


@pytest.mark.parametrize(
    ("ndcg", "margin", "best"),
    [
        ([0.3], 0.0, 0),
        ([0.3, 0.4, 0.5, 0.45], 0.0, 2),
        ([0.3, 0.4, 0.4], 0.0, 1),
        ([0.3, 0.25, 0.29], 0.0, 0),
        ([0.3, 0.25, 0.29], 0.02, 2),
        ([0.3, nan, 0.4], 0.0, 2),
        ([0.3, nan, nan], 1.0, 0),
    ],
)
def test_the_best_epoch_is_chosen_if_it_is_no_worse_than_the_initialization_less_the_margin(
    ndcg, margin, best
):
    assert replace(STOPPING, margin=margin).best_epoch(ndcg) == best


@pytest.mark.parametrize(
    ("ndcg", "stops"),
    [
        ([0.3], False),
        ([0.3, 0.2], False),
        ([0.3, 0.2, 0.2], True),
        ([0.3, 0.4, 0.3], False),
        ([0.3, 0.4, 0.3, 0.3], True),
        ([n / 10 for n in range(10)], True),
    ],
)
def test_training_stops_after_the_last_epoch_or_without_a_better_one_for_as_long_as_the_patience(ndcg, stops):
    assert STOPPING.should_stop(ndcg) == stops


def test_only_with_embeddings_the_trained_network_may_be_slightly_worse_than_the_factorisation():
    data = as_dataset(tiny_feed())
    assert EarlyStopping.of(FitConfig(), data).margin == 0.01
    assert EarlyStopping.of(FitConfig(), data.without_embeddings()).margin == 0.0
