"""Ordering feeds: scores, ties, limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.transforms import probabilities
from animora_server.settings import TimelineSettings
from animora_server.timeline.feed_ranker import RankedPosts, ScoredCandidates, order_posts, stored_bytes
from animora_server.timeline.reranking import Reranking
from animora_server.types import RankerName
from tests.support.catalogs import NOW, snapshot


def ranking_of(catalog, values, ranker=RankerName.HEURISTIC, **options) -> RankedPosts:
    settings = TimelineSettings(**options)
    scored = ScoredCandidates(np.arange(len(values)), np.array(values, np.float32), ranker)
    return order_posts(catalog, scored, NOW, settings, Reranking.of(settings, Heuristic()))


def test_a_timeline_is_ordered_by_value_and_shows_probabilities_of_logits():
    catalog = snapshot({1: {}, 2: {}, 3: {}})
    ranked = ranking_of(catalog, [-1.0, 2.0, 0.0], RankerName.NEUCF)
    assert ranked.post_ids.tolist() == [2, 3, 1]
    assert ranked.rows.tolist() == [1, 2, 0]
    assert ranked.scores.tolist() == probabilities(np.array([2.0, 0.0, -1.0], np.float32)).tolist()


def test_the_heuristics_values_are_shown_as_they_are():
    ranked = ranking_of(snapshot({1: {}, 2: {}}), [0.25, 0.5])
    assert ranked.scores.tolist() == [0.5, 0.25]
    assert ranked.scores.dtype == np.float32


def test_logits_that_are_one_probability_still_order():
    ranked = ranking_of(snapshot({1: {}, 2: {}}), [80.0, 90.0], RankerName.NEUCF)
    assert ranked.post_ids.tolist() == [2, 1]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=60),
    st.integers(1, 70),
)
def test_the_best_are_kept_ties_by_newer_then_by_larger_id(posts, limit):
    catalog = snapshot({post: {"age": age} for post, (_, age) in enumerate(posts)})
    best = sorted(range(len(posts)), key=lambda post: (posts[post][0], -posts[post][1], post), reverse=True)
    ranked = ranking_of(catalog, [value for value, _ in posts], max_posts=limit)
    assert ranked.post_ids.tolist() == best[:limit]


def test_without_candidates_the_timeline_is_empty():
    for settings in ({}, {"author_discount": 0.5, "exploration_share": 0.5, "recency_weight": 0.5}):
        ranked = ranking_of(snapshot({}), [], RankerName.NEUCF, **settings)
        assert ranked.post_ids.tolist() == []
        assert ranked.scores.tolist() == []


@pytest.mark.parametrize("settings", [{}, {"author_discount": 0.5}])
def test_a_timeline_is_cut_to_the_bytes_that_it_may_take(settings):
    catalog = snapshot({post: {"author": post} for post in range(200)})
    values = np.linspace(0.1, 0.9, 200).tolist()
    ranked = ranking_of(catalog, values, max_bytes=1024, **settings)
    assert 0 < len(ranked.post_ids) < 200
    assert stored_bytes(ranked.post_ids) <= 1024
    assert stored_bytes(np.arange(len(ranked.post_ids) + 1)) > 1024
    assert ranked.post_ids.tolist() == list(range(199, 199 - len(ranked.post_ids), -1))
    assert len(ranked.rows) == len(ranked.scores) == len(ranked.post_ids)


def test_reranking_starts_from_what_callers_would_see():
    catalog = snapshot({1: {"author": 50}, 2: {"author": 50}, 3: {"author": 60}})
    logits = [3.0, 2.0, 1.0]
    ranked = ranking_of(catalog, logits, RankerName.NEUCF, author_discount=0.5)
    chances = probabilities(np.array(logits, np.float32))
    assert ranked.post_ids.tolist() == [1, 3, 2]
    assert ranked.scores.tolist() == [chances[0], chances[2], np.float32(chances[1] * 0.5)]
