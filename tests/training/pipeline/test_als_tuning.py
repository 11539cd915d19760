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
from animora_training.pipeline.als_tuning import FURTHEST, climb, default_als, tuned_als
from animora_training.pipeline.holdout import FitHoldOut
from tests.training.worlds import as_dataset, tiny_feed

CONFIG = FitConfig(factors=4, als_iterations=4, seed=1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-6, 6), min_size=1, max_size=2))
def test_the_peak_is_found_within_a_step(peak):
    asked = []

    def quality(place):
        asked.append(place)
        return -sum(abs(at - best) for at, best in zip(place, peak, strict=True))

    found = climb(quality, (0,) * len(peak))
    assert all(abs(at - best) <= 0.5 for at, best in zip(found, peak, strict=True))
    assert len(asked) == len(set(asked))  # each costs a factorisation
    assert len(asked) < 10 * len(peak)


def test_of_equals_the_start_is_taken_and_a_slope_without_end_is_left():
    assert climb(lambda place: 0.0, (3, 1)) == (3, 1)
    assert climb(lambda place: place[0], (0,)) == (FURTHEST,)
    assert climb(lambda place: -place[1], (0, 0)) == (0, -FURTHEST)


@pytest.fixture(scope="module")
def data():
    return as_dataset(tiny_feed())


def test_the_hold_out_is_ranked_no_worse_than_with_the_usual_or_a_little_more_or_less(data, monkeypatch):
    holdout = FitHoldOut.of(data, CONFIG)
    rows = training_set(data, holdout.training)

    def quality(strength):
        factors = factorize(rows, CONFIG, strength)
        users = np.zeros((len(data.user_ids), 4), np.float32)
        posts = np.zeros((len(data.posts.ids), 4), np.float32)
        users[np.searchsorted(data.user_ids, rows.vocabulary.user_ids)] = factors.users[1:]
        posts[np.searchsorted(data.posts.ids, rows.vocabulary.post_ids)] = factors.posts[1:]
        return holdout.choice(Factors(users, posts)).ndcg

    monkeypatch.setattr("animora_training.pipeline.als_tuning.HELD_BACK", ())
    best = tuned_als(holdout, rows, CONFIG)
    more, less = (replace(best, regularisation=best.regularisation * 2**half) for half in (0.5, -0.5))
    for other in (default_als(rows, CONFIG), more, less):
        assert quality(best) >= quality(other)
    assert tuned_als(holdout, rows, CONFIG) == best
    # It is held back as much more as is affordable.
    monkeypatch.setattr("animora_training.pipeline.als_tuning.HELD_BACK", (1e6, 1.01, 1.001))
    monkeypatch.setattr("animora_training.pipeline.als_tuning.AFFORDABLE", 0.05)
    assert tuned_als(holdout, rows, CONFIG) == replace(best, regularisation=1.01 * best.regularisation)
    monkeypatch.setattr("animora_training.pipeline.als_tuning.AFFORDABLE", -1.0)
    assert tuned_als(holdout, rows, CONFIG) == best


def test_what_the_recipe_gives_is_not_tuned(data):
    holdout = FitHoldOut.of(data, CONFIG)
    rows = training_set(data, holdout.training)
    assert tuned_als(holdout, rows, replace(CONFIG, als_alpha=3.0)).alpha == 3.0
    held_back = replace(CONFIG, als_regularisation=7.0)
    assert tuned_als(holdout, rows, held_back).regularisation == 7.0
    assert tuned_als(holdout, rows, replace(held_back, als_alpha=3.0)) == AlsSettings(3.0, 7.0)


def test_a_place_without_a_number_is_never_the_best():
    qualities: dict[tuple[int, ...], float] = {(0,): 0.5, (2,): math.nan, (1,): 0.6, (3,): 0.7}
    assert climb(lambda place: qualities.get(place, math.nan), (0,)) == (1,)
