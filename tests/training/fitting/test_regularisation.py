import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from animora_training.fitting.holdout import HoldOut
from animora_training.fitting.regularisation import climb, tuned_regularisation, usual_regularisation
from animora_training.judging.recommender import Factors
from animora_training.learning.config import FitConfig
from animora_training.learning.factorisation import factorize
from animora_training.learning.training_set import training_set
from tests.training.worlds import as_dataset, tiny_feed

CONFIG = FitConfig(factors=4, als_iterations=4, seed=1)


@settings(max_examples=100, deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 1000))
def test_the_peak_is_found_within_a_step(away, start):
    """Wherever the peak is within reach, as a power of two."""
    peak = start * 2**away
    asked = []

    def quality(value):
        asked.append(value)
        return -abs(math.log(value / peak))

    found = climb(quality, start)
    assert abs(math.log2(found / peak)) <= 0.25 + 1e-9
    assert len(asked) == len(set(asked))  # each costs a factorisation
    assert len(asked) < 12


def test_of_equals_the_start_is_taken_and_a_slope_without_end_is_left():
    assert climb(lambda value: 0.0, 3.0) == 3.0
    assert climb(lambda value: value, 1.0) >= 2.0**6
    assert climb(lambda value: -value, 1.0) <= 2.0**-6


def test_the_hold_out_is_ranked_no_worse_than_with_the_usual_or_a_little_more_or_less():
    data = as_dataset(tiny_feed())
    holdout = HoldOut.of(data, CONFIG)
    rows = training_set(data, holdout.training)

    def quality(regularisation):
        factors = factorize(rows, CONFIG, regularisation)
        users = np.zeros((len(data.user_ids), 4), np.float32)
        posts = np.zeros((len(data.posts.ids), 4), np.float32)
        users[np.searchsorted(data.user_ids, rows.vocabulary.user_ids)] = factors.users[1:]
        posts[np.searchsorted(data.posts.ids, rows.vocabulary.post_ids)] = factors.posts[1:]
        return holdout.choice(Factors(users, posts)).ndcg

    tuned = tuned_regularisation(holdout, rows, CONFIG)
    for other in (usual_regularisation(rows, CONFIG), tuned * math.sqrt(2), tuned / math.sqrt(2)):
        assert quality(tuned) >= quality(other)
    assert tuned_regularisation(holdout, rows, CONFIG) == pytest.approx(tuned)
