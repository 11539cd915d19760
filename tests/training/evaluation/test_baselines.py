import math

import numpy as np
import pytest

from animora_training.data.dataset import ABSENT
from animora_training.data.split import HeldOut
from animora_training.evaluation.baselines import heuristic_scores, popularity_scores
from tests.support.datasets import as_dataset, dataset, tiny_feed

HOUR = 3600.0


def test_popularity_counts_every_event():
    data = dataset([(10, 100, 1.0), (10, 100, 2.0), (20, 300, 3.0)])
    held_out = HeldOut(np.array([3]), np.array([[2, 0, 1]]), np.array([2.0]))
    assert popularity_scores(data.posts, data.events, held_out).tolist() == [[1.0, 2.0, 0.0]]


def test_the_heuristic_is_computed_at_a_given_time():
    data = dataset([(10, 100, 1 * HOUR), (20, 100, 2 * HOUR), (30, 200, 2 * HOUR), (10, 200, 9 * HOUR)])
    data.posts.created[:3] = (0.0, 1 * HOUR, 5 * HOUR)
    held_out = HeldOut(np.array([3]), np.array([[0, 1, 2, ABSENT]]), np.array([4 * HOUR]))
    scores = heuristic_scores(data.posts, data.events, held_out)[0]
    expected = [
        0.6 * 1.0 + 0.4 * math.exp(-4 / 6),
        0.6 * math.log(2) / math.log(3) + 0.4 * math.exp(-3 / 6),
        0.4,  # not yet created: an age below zero is zero
    ]
    assert scores[:3] == pytest.approx(expected)


def test_events_at_the_very_time_count():
    data = dataset([(10, 100, 0.0), (20, 100, 0.0), (10, 200, 0.0)])
    held_out = HeldOut(np.array([3]), np.array([[0, 1]]), np.array([0.0]))
    popularity = heuristic_scores(data.posts, data.events, held_out)[0] - 0.4
    assert popularity == pytest.approx([0.6, 0.6 * math.log(2) / math.log(3)])


def test_the_highest_count_is_of_live_posts():
    data = dataset([(10, 100, 1.0), (20, 100, 2.0), (10, 200, 3.0)], deleted=(100,))
    held_out = HeldOut(np.array([3]), np.array([[1]]), np.array([4.0]))
    recency = 0.4 * math.exp(-2.0 / (6 * HOUR))
    assert heuristic_scores(data.posts, data.events, held_out)[0] == pytest.approx([0.6 + recency])


def test_before_any_event_only_recency_counts():
    data = dataset([(10, 100, 50.0)])
    held_out = HeldOut(np.array([3]), np.array([[0]]), np.array([1.0]))
    assert heuristic_scores(data.posts, data.events, held_out)[0] == pytest.approx([0.4])


def test_posts_times_events_may_exceed_32_bits():
    many = 50_000
    data = dataset([(10, 100, 0.0), *[(10, 100 * many, 0.0)] * many], posts=many)
    held_out = HeldOut(np.array([3]), np.array([[0, many - 1]]), np.array([0.0]))
    popularity = heuristic_scores(data.posts, data.events, held_out)[0] - 0.4
    assert popularity == pytest.approx([0.6 * math.log(2) / math.log(many + 1), 0.6])


def test_the_heuristic_of_a_feed_equals_counting_one_by_one():
    data = as_dataset(tiny_feed())
    rng = np.random.default_rng(1)
    held_out = HeldOut(
        np.arange(20),
        rng.integers(0, len(data.posts.ids), (20, 4)),
        rng.choice(data.events.times, 20),
    )
    scores = heuristic_scores(data.posts, data.events, held_out)
    for row, moment in enumerate(held_out.times):
        counts = np.bincount(data.events.posts[data.events.times <= moment], minlength=len(data.posts.ids))
        highest = counts[~data.posts.deleted].max()
        for column, post in enumerate(held_out.candidates[row]):
            age = max(moment - data.posts.created[post], 0.0)
            popularity = math.log1p(counts[post]) / math.log1p(highest)
            expected = 0.6 * popularity + 0.4 * math.exp(-age / (6 * HOUR))
            assert scores[row, column] == pytest.approx(expected)
