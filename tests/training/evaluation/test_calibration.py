import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from animora_training.data.dataset import ABSENT
from animora_training.data.split import HeldOut
from animora_training.evaluation.calibration import (
    LikeSample,
    LogitScaling,
    calibration,
    fit_scaling,
    like_sample,
)


def logit(probability):
    return math.log(probability / (1 - probability))


def test_measures_by_hand():
    sample = LikeSample(
        np.array([logit(0.9), logit(0.2), logit(0.2)]),
        np.array([True, False, True]),
        np.array([1.0, 2.0, 1.0]),
    )
    found = calibration(sample, bins=2)
    assert found.base_rate == 0.5
    assert found.mean_probability == pytest.approx((0.9 + 0.4 + 0.2) / 4)
    assert found.brier == pytest.approx((0.01 + 2 * 0.04 + 0.64) / 4)
    assert found.log_loss == pytest.approx(-(math.log(0.9) + 2 * math.log(0.8) + math.log(0.2)) / 4)
    assert found.base_log_loss == pytest.approx(math.log(2))
    # Bins of a mass of two: the first two at 0.2, and the third with the 0.9.
    assert found.predicted == pytest.approx([0.2, 0.55])
    assert found.observed == pytest.approx([0.0, 1.0])
    assert found.error == pytest.approx((0.2 + 0.45) / 2)


def test_only_miscalibrated_probabilities_have_a_calibration_error():
    rng = np.random.default_rng(0)
    scores = rng.normal(-3, 1.5, 200_000)
    liked = rng.random(len(scores)) < 1 / (1 + np.exp(-scores))
    right = calibration(LikeSample(scores, liked, np.ones(len(scores))))
    sure = calibration(LikeSample(scores * 2, liked, np.ones(len(scores))))
    assert right.error < 0.003
    assert sure.error > 5 * right.error
    assert right.log_loss < min(sure.log_loss, right.base_log_loss)


@given(st.lists(st.tuples(st.floats(-900, 900), st.booleans(), st.integers(1, 3)), min_size=1, max_size=30))
def test_a_pair_of_weight_n_counts_as_n_pairs(rows):
    scores, liked, weights = (np.array(column) for column in zip(*rows, strict=True))
    once = calibration(LikeSample(scores, liked, weights.astype(np.float64)), bins=1)
    repeated = calibration(
        LikeSample(scores.repeat(weights), liked.repeat(weights), np.ones(weights.sum())), bins=1
    )
    for name in ("base_rate", "mean_probability", "error", "brier", "log_loss", "base_log_loss"):
        value = getattr(once, name)
        assert math.isfinite(value)
        assert value == pytest.approx(getattr(repeated, name))


def test_a_sample_stands_for_the_whole_catalog():
    held_out = HeldOut(np.array([0, 1]), np.array([[4, 1, 2], [3, 0, ABSENT]]), np.zeros(2))
    scores = np.arange(6.0).reshape(2, 3)
    sample = like_sample(scores, held_out, liked=np.array([7, 2]), untouched=np.array([30, 50]))
    assert sample.scores.tolist() == [0, 1, 2, 3, 4]
    assert sample.liked.tolist() == [True, False, False, True, False]
    assert sample.weights.tolist() == [7, 15, 15, 2, 50]


def test_an_empty_sample_has_no_calibration():
    found = calibration(LikeSample(np.zeros(0), np.zeros(0, np.bool_), np.zeros(0)))
    assert math.isnan(found.error)
    assert len(found.predicted) == 0


def test_scaling_corrects_slope_and_offset_of_log_odds():
    rng = np.random.default_rng(0)
    true = rng.normal(-3.0, 1.5, 200_000)
    liked = rng.random(len(true)) < expit(true)
    scaling = fit_scaling(LikeSample((true + 1.2) / 0.6, liked, np.ones(len(true))))
    assert scaling.slope == pytest.approx(0.6, abs=0.02)
    assert scaling.offset == pytest.approx(-1.2, abs=0.03)
    # Weighted pairs: one in a hundred unliked pairs is sampled, with weight 100.
    kept = liked | (rng.random(len(true)) < 0.01)
    weights = np.where(liked, 1.0, 100.0)[kept]
    sampled = fit_scaling(LikeSample(true[kept], liked[kept], weights))
    assert sampled.offset == pytest.approx(0.0, abs=0.3)
    assert sampled.slope == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("liked", [[], [True, True], [False, False]])
def test_scaling_is_the_identity_if_all_or_no_pairs_are_liked(liked):
    sample = LikeSample(np.linspace(-1, 1, len(liked)), np.array(liked, np.bool_), np.ones(len(liked)))
    assert fit_scaling(sample) == LogitScaling()


def test_scaling_never_reverses_the_order():
    sample = LikeSample(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([1, 1, 0, 0], np.bool_), np.ones(4))
    assert fit_scaling(sample).slope > 0
