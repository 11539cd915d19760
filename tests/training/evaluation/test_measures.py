import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_training.evaluation.full_ranking import CatalogRanks
from animora_training.evaluation.measures import (
    expected_measures,
    expected_ndcg,
    full_measures,
    hypergeometric_pmf,
    measures_of_ranks,
    rank_measures,
)
from animora_training.evaluation.metrics import area_under_curve, hit_ratio, ndcg


def ranks_of(rows, before, irrelevant, higher=None, ties=None):
    before = np.array(before)
    return CatalogRanks(
        rows=np.array(rows),
        before=before,
        higher=before if higher is None else np.array(higher),
        ties=np.zeros_like(before) if ties is None else np.array(ties),
        irrelevant=np.array(irrelevant),
        lists=np.zeros((len(irrelevant), 0), np.int64),
    )


def test_measures_of_a_user_with_several_relevant_posts_by_hand():
    measures = rank_measures(np.array([0, 0, 0, 2]), np.array([1, 3, 12, 0]), 3, (1, 3, 10))
    gain = [1 / math.log2(place + 2) for place in range(10)]
    expected = {
        "hr@1": [0, math.nan, 1],
        "hr@3": [1, math.nan, 1],
        "recall@3": [1 / 3, math.nan, 1],
        "recall@10": [2 / 3, math.nan, 1],
        "ndcg@1": [0, math.nan, 1],
        "ndcg@3": [gain[1] / sum(gain[:3]), math.nan, 1],
        "ndcg@10": [(gain[1] + gain[3]) / sum(gain[:3]), math.nan, 1],
        "mrr": [1 / 2, math.nan, 1],
    }
    for name, values in expected.items():
        assert measures[name] == pytest.approx(values, nan_ok=True), name


@given(st.lists(st.integers(0, 60), min_size=1, max_size=20))
def test_metrics_of_one_relevant_post_are_those_of_the_paper(ranks):
    measures = measures_of_ranks(np.array(ranks))
    for cutoff in (1, 5, 10, 20, 50):
        assert measures[f"hr@{cutoff}"].mean() == pytest.approx(hit_ratio(np.array(ranks), cutoff))
        assert measures[f"ndcg@{cutoff}"].mean() == pytest.approx(ndcg(np.array(ranks), cutoff))
        assert measures[f"recall@{cutoff}"].tolist() == measures[f"hr@{cutoff}"].tolist()


@given(st.data())
def test_each_users_area_under_the_curve_is_exact(data):
    flags = data.draw(st.lists(st.booleans(), min_size=2, max_size=9).filter(lambda row: len(set(row)) == 2))
    scores = data.draw(st.lists(st.integers(0, 3), min_size=len(flags), max_size=len(flags)))
    wanted, others = (
        [score for score, flag in zip(scores, flags, strict=True) if flag == which] for which in (True, False)
    )
    higher = [sum(other > score for other in others) for score in wanted]
    ties = [sum(other == score for other in others) for score in wanted]
    measures = full_measures(ranks_of([0] * len(wanted), higher, [len(others)], higher, ties))
    assert measures["auc"][0] == pytest.approx(area_under_curve(np.array(scores), np.array(flags)))


def test_relevant_posts_do_not_lower_each_others_rank():
    # Two relevant posts before all others have the first two places, whichever comes first.
    measures = full_measures(ranks_of([0, 0], [0, 0], [40]))
    assert measures["ndcg@5"].tolist() == pytest.approx([1.0])
    assert measures["recall@1"].tolist() == [0.5]


@given(st.integers(0, 7), st.integers(0, 7), st.integers(1, 9))
def test_the_probabilities_are_those_of_every_possible_sample(before, after, sampled):
    total = before + after
    draws = list(combinations(range(total), min(sampled, total)))
    counts = [sum(post < before for post in draw) for draw in draws]
    chances = list(hypergeometric_pmf(np.array([before]), np.array([total]), sampled))
    assert len(chances) == sampled + 1
    for place, chance in enumerate(chances):
        assert chance[0] == pytest.approx(counts.count(place) / len(draws))


def test_expected_measures_equal_the_mean_over_many_samples():
    rng = np.random.default_rng(0)
    before, total = 40, 1000
    drawn = np.array([(rng.choice(total, 99, replace=False) < before).sum() for _ in range(4000)])
    expected = expected_measures(ranks_of([0], [before], [total]))
    measures = measures_of_ranks(drawn)
    for name in ("hr@1", "hr@5", "ndcg@5", "ndcg@10", "mrr"):
        spread = measures[name].std() / math.sqrt(len(drawn))
        assert abs(expected[name][0] - measures[name].mean()) < 4 * spread + 1e-3, name


def test_several_posts_of_a_user_are_averaged_first():
    ranks = ranks_of([0, 0, 1], [0, 500, 0], [500, 500])
    expected = expected_measures(ranks)
    assert expected["ndcg@10"] == pytest.approx([0.5, 1.0])
    assert expected_ndcg(ranks) == pytest.approx(0.75)
    assert expected_ndcg(ranks_of(*np.zeros((3, 0), np.int64))) == 0.0


def test_large_catalogs_do_not_lose_precision():
    chances = np.array(list(hypergeometric_pmf(np.array([3_000_000]), np.array([10_000_000]), 99)))
    assert chances.sum() == pytest.approx(1.0, abs=1e-6)
    assert np.arange(100) @ chances[:, 0] == pytest.approx(99 * 0.3, abs=1e-4)


def test_a_row_without_irrelevant_posts_has_no_metrics():
    ranks = ranks_of([0, 1], [0, 4], [0, 9])
    for measures in (full_measures(ranks), expected_measures(ranks)):
        assert all(np.isnan(values[0]) and not np.isnan(values[1]) for values in measures.values())
    assert expected_ndcg(ranks) == pytest.approx(expected_ndcg(ranks_of([0], [4], [9])))
    assert expected_ndcg(ranks_of([0], [0], [0])) == 0.0
