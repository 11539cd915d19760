import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from animora_training.evaluation.recommender import Factors
from animora_training.modeling.config import FitConfig
from animora_training.modeling.factorisation import AlsSettings, factorize
from animora_training.modeling.training_set import training_set
from animora_training.pipeline.als_tuning import MAX_DISTANCE, default_als, hill_climb, tune_als
from animora_training.pipeline.holdout import FitHoldOut
from tests.support.datasets import as_dataset, tiny_feed

CONFIG = FitConfig(factors=4, als_iterations=4, seed=1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-6, 6), min_size=1, max_size=2))
def test_hill_climbing_finds_the_peak_within_a_step(peak):
    tried = []

    def quality(place):
        tried.append(place)
        return -sum(abs(at - best) for at, best in zip(place, peak, strict=True))

    found = hill_climb(quality, (0,) * len(peak))
    assert all(abs(at - best) <= 0.5 for at, best in zip(found, peak, strict=True))
    assert len(tried) == len(set(tried))  # each costs a factorisation
    assert len(tried) < 10 * len(peak)


def test_ties_go_to_the_start_and_the_search_is_bounded():
    assert hill_climb(lambda place: 0.0, (3, 1)) == (3, 1)
    assert hill_climb(lambda place: place[0], (0,)) == (MAX_DISTANCE,)
    assert hill_climb(lambda place: -place[1], (0, 0)) == (0, -MAX_DISTANCE)


@pytest.fixture(scope="module")
def data():
    return as_dataset(tiny_feed())


def test_tuned_settings_rank_the_hold_out_no_worse_than_the_defaults_and_their_neighbours(data):
    holdout = FitHoldOut.of(data, CONFIG)
    rows = training_set(data, holdout.training)

    def quality(settings):
        factors = factorize(rows, CONFIG, settings)
        users = np.zeros((len(data.user_ids), 4), np.float32)
        posts = np.zeros((len(data.posts.ids), 4), np.float32)
        users[np.searchsorted(data.user_ids, rows.vocabulary.user_ids)] = factors.users[1:]
        posts[np.searchsorted(data.posts.ids, rows.vocabulary.post_ids)] = factors.posts[1:]
        return holdout.choice(Factors(users, posts)).ndcg

    best = tune_als(holdout, rows, CONFIG, factors=())
    more, less = (replace(best, regularisation=best.regularisation * 2**half) for half in (0.5, -0.5))
    for other in (default_als(rows, CONFIG), more, less):
        assert quality(best) >= quality(other)
    # The L2 is raised by as much as is affordable.
    factors = (1e6, 1.01, 1.001)
    raised = tune_als(holdout, rows, CONFIG, factors=factors, max_loss=0.05)
    assert raised == replace(best, regularisation=1.01 * best.regularisation)
    assert tune_als(holdout, rows, CONFIG, factors=factors, max_loss=-1.0) == best


def test_settings_of_the_config_are_not_tuned(data):
    holdout = FitHoldOut.of(data, CONFIG)
    rows = training_set(data, holdout.training)
    assert tune_als(holdout, rows, replace(CONFIG, als_alpha=3.0)).alpha == 3.0
    strong = replace(CONFIG, als_regularisation=7.0)
    assert tune_als(holdout, rows, strong).regularisation == 7.0
    assert tune_als(holdout, rows, replace(strong, als_alpha=3.0)) == AlsSettings(3.0, 7.0)


def test_a_point_with_nan_is_never_the_best():
    qualities: dict[tuple[int, ...], float] = {(0,): 0.5, (2,): math.nan, (1,): 0.6, (3,): 0.7}
    assert hill_climb(lambda place: qualities.get(place, math.nan), (0,)) == (1,)
