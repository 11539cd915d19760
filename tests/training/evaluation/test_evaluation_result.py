import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_training.data.dataset import Rows
from animora_training.evaluation.evaluation_result import gini, list_measures, popularity_percentiles
from animora_training.evaluation.full_ranking import rank_catalog
from animora_training.evaluation.task import task_by_pair
from tests.support.datasets import dataset
from tests.training.evaluation.recommenders import Table


def test_percentiles_are_among_eligible_posts_and_equal_for_ties():
    counts, eligible = np.array([5, 0, 0, 9, 2]), np.array([True, True, True, False, True])
    assert popularity_percentiles(counts, eligible).tolist() == [3.5 / 4, 1 / 4, 1 / 4, 1.0, 2.5 / 4]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any))
def test_gini_is_the_mean_difference_of_all_pairs(counts):
    values = np.array(counts, np.float64)
    differences = np.abs(values[:, None] - values[None]).mean() / (2 * values.mean())
    assert gini(np.array(counts)) == pytest.approx(differences)


def test_gini_of_no_values_is_nan():
    assert math.isnan(gini(np.zeros(4, np.int64)))


def test_lists_of_a_small_feed_by_hand():
    # Two users, six posts; ten places show each user all that is left to show.
    data = dataset([(10, 100, 1.0), (10, 200, 1.5), (20, 100, 2.0), (30, 300, 3.0)], deleted=(600,))
    pairs = Rows(np.array([0, 1]), np.array([2, 1]), np.array([9.0, 9.0]))
    task = task_by_pair(data, data.pairs, pairs)
    ranks = rank_catalog(Table(np.zeros((4, 6))), task, data.posts, length=1)
    measures = list_measures(task, ranks, data.pairs)
    # Both lists have post 500, the newest, without likes: percentile (0 + 2) / 2 / 5.
    assert measures.coverage == 1 / 5
    assert measures.popularity == pytest.approx(0.2)
    # Post 100 was liked twice (4.5 / 5), 200 once (3 / 5).
    assert measures.history_popularity == pytest.approx(((0.9 + 0.6) / 2 + 0.9) / 2)
    assert measures.gini == pytest.approx(0.8)
