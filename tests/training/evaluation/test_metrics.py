import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_training.errors import NotFinite
from animora_training.evaluation.metrics import (
    area_under_curve,
    held_out_ranks,
    hit_ratio,
    mean_area_under_curve,
    ndcg,
)

CANDIDATE = st.tuples(st.sampled_from([-1.0, 0.0, 0.5]), st.sampled_from([1.0, 2.0]), st.booleans())


@given(st.lists(CANDIDATE, min_size=1, max_size=8), st.randoms())
def test_a_rank_is_the_position_in_the_servers_order(candidates, random):
    ids = random.sample(range(100), len(candidates))
    scores, created, present = (np.array([column]) for column in zip(*candidates, strict=True))
    order = sorted(
        (index for index in range(len(candidates)) if index == 0 or present[0, index]),
        key=lambda index: (-scores[0, index], -created[0, index], -ids[index]),
    )
    ranks = held_out_ranks(scores, present, created, np.array([ids]))
    assert ranks.tolist() == [order.index(0)]


def test_measures_of_known_ranks():
    ranks = np.array([0, 1, 9, 10])
    assert hit_ratio(ranks, 10) == 0.75
    assert ndcg(ranks, 10) == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(11)) / 4)


def test_metrics_without_users_are_zero():
    assert (hit_ratio(np.array([], np.int64), 10), ndcg(np.array([], np.int64), 10)) == (0.0, 0.0)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=12))
def test_the_area_under_the_curve_is_the_share_of_pairs_in_order(rows):
    scores = np.array([score for score, _ in rows], np.float64)
    relevant = np.array([flag for _, flag in rows], np.bool_)
    pairs = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high, wanted in rows
        if wanted
        for low, unwanted in rows
        if not unwanted
    ]
    area = area_under_curve(scores, relevant)
    assert math.isnan(area) if not pairs else area == pytest.approx(sum(pairs) / len(pairs))


def test_rows_in_which_all_or_none_are_relevant_have_no_auc():
    scores = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    relevant = np.array([[True, False], [True, True], [False, True]])
    assert mean_area_under_curve(scores, relevant) == 0.5
    assert math.isnan(mean_area_under_curve(scores[1:2], relevant[1:2]))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_score_that_is_not_finite_has_no_rank(wrong):
    scores = np.array([[wrong, 0.0, 1.0]])
    with pytest.raises(NotFinite, match="1 of 3 scores"):
        held_out_ranks(scores, np.ones((1, 3), np.bool_), np.zeros((1, 3)), np.zeros((1, 3), np.int64))
    # Scores of absent candidates are ignored.
    present = np.array([[True, False, True]])
    ranks = held_out_ranks(
        np.array([[0.0, wrong, 1.0]]), present, np.zeros((1, 3)), np.zeros((1, 3), np.int64)
    )
    assert ranks.tolist() == [1]
