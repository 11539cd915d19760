"""Re-ranking, compared with a plain implementation that selects posts one by one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_server.scoring.heuristic import Heuristic
from animora_server.settings import TimelineSettings
from animora_server.timeline.reranking import Reranking
from animora_server.types import FloatArray, IntArray
from tests.support.catalogs import NOW, snapshot

HEURISTIC = Heuristic()
HOUR = 3600.0


def reranking(**settings) -> Reranking:
    made = Reranking.of(TimelineSettings(**settings), HEURISTIC)
    assert made is not None
    return made


def floats(*values: float) -> FloatArray:
    return np.array(values, np.float32)


def order_ids(
    catalog, rerank: Reranking, relevance: FloatArray, limit: int = 100
) -> tuple[IntArray, FloatArray]:
    """The posts in order, and their scores."""
    best, scores = rerank.order(catalog, np.arange(len(relevance)), relevance, NOW, limit)
    return catalog.post_ids[best], scores


def test_nothing_is_reranked_by_default():
    assert Reranking.of(TimelineSettings(), HEURISTIC) is None


@pytest.mark.parametrize(
    "setting", ["recency_weight", "popularity_weight", "author_discount", "exploration_share"]
)
def test_each_setting_alone_turns_reranking_on(setting):
    assert Reranking.of(TimelineSettings.model_validate({setting: 0.25}), HEURISTIC) is not None


def test_a_blended_score_weighs_relevance_recency_and_popularity():
    catalog = snapshot({1: {"age": 6 * HOUR, "likes": 3}, 2: {"age": 0, "likes": 15}})
    _, scores = order_ids(catalog, reranking(recency_weight=0.3, popularity_weight=0.2), floats(1.0, 0.0))
    popularity = math.log(4) / math.log(16)
    assert sorted(scores.tolist()) == pytest.approx(
        sorted([0.5 + 0.3 / math.e + 0.2 * popularity, 0.3 + 0.2])
    )


def test_equal_scores_put_the_newer_first_then_the_larger_id():
    catalog = snapshot({1: {"age": 10}, 2: {"age": 5}, 3: {"age": 10}})
    order, _ = order_ids(catalog, reranking(popularity_weight=0.5), floats(0.5, 0.5, 0.5))
    assert order.tolist() == [2, 3, 1]


def test_the_best_posts_up_to_the_limit_are_kept():
    catalog = snapshot({post: {"author": post} for post in range(10)})
    relevance = np.linspace(0.1, 0.9, 10, dtype=np.float32)
    for settings in ({"author_discount": 0.5}, {"exploration_share": 0.5}):
        order, scores = order_ids(catalog, reranking(**settings), relevance, limit=3)
        assert order.tolist() == [9, 8, 7]
        assert scores.tolist() == relevance[[9, 8, 7]].tolist()


def test_each_further_post_of_an_author_counts_for_less():
    catalog = snapshot({1: {"author": 50}, 2: {"author": 50}, 3: {"author": 50}, 4: {"author": 60}})
    order, scores = order_ids(catalog, reranking(author_discount=0.5), floats(0.8, 0.7, 0.6, 0.3))
    assert order.tolist() == [1, 2, 4, 3]
    assert scores.tolist() == pytest.approx([0.8, 0.35, 0.3, 0.15])


tenths = st.integers(0, 10).map(lambda tenth: tenth / 10)
scored_posts = st.lists(st.tuples(tenths, st.integers(0, 4), st.integers(0, 5)), max_size=40)


@given(scored_posts, st.sampled_from([0.25, 0.5, 0.75]))
def test_discounting_by_author_equals_repeatedly_taking_the_best_remaining_post(posts, discount):
    catalog = snapshot({post: {"author": author, "age": age} for post, (_, author, age) in enumerate(posts)})
    relevance = floats(*(score for score, _, _ in posts))
    taken: list[int] = []
    scores = []
    remaining = set(range(len(posts)))
    while remaining:
        authors = [posts[post][1] for post in taken]

        def worth(post, authors=authors):
            value = np.float32(relevance[post] * discount ** authors.count(posts[post][1]))
            return value, relevance[post], -posts[post][2], post

        best = max(remaining, key=lambda post: (worth(post)[0], *worth(post)[2:]))
        taken.append(best)
        scores.append(float(worth(best)[0]))
        remaining.remove(best)
    order, given_scores = order_ids(catalog, reranking(author_discount=discount), relevance)
    assert order.tolist() == taken
    assert given_scores.tolist() == pytest.approx(scores)


@given(
    st.lists(st.tuples(tenths, st.integers(0, 9)), max_size=60),
    st.floats(0.01, 0.5),
    st.integers(1, 70),
)
def test_exploration_places_take_the_best_remaining_post_with_few_interactions(posts, share, limit):
    catalog = snapshot({post: {"likes": likes} for post, (_, likes) in enumerate(posts)})
    rerank = reranking(exploration_share=share, exploration_below=3)
    remaining = sorted(range(len(posts)), key=lambda post: (posts[post][0], post), reverse=True)
    taken = []
    for place in range(min(limit, len(posts))):
        explores = math.floor((place + 1) * share) > math.floor(place * share)
        few = [post for post in remaining if posts[post][1] < 3]
        taken.append((few or remaining)[0] if explores else remaining[0])
        remaining.remove(taken[-1])
    order, scores = order_ids(catalog, rerank, floats(*(score for score, _ in posts)), limit)
    assert order.tolist() == taken
    assert scores.tolist() == floats(*(posts[post][0] for post in taken)).tolist()


def test_a_tenth_of_the_places_is_every_tenth():
    places = reranking(exploration_share=0.1).exploration_positions(30)
    assert np.flatnonzero(places).tolist() == [9, 19, 29]


weights = st.tuples(tenths, tenths).filter(lambda pair: sum(pair) <= 1)


@given(scored_posts, weights, st.sampled_from([0.5, 0.9, 1.0]), st.sampled_from([0.0, 0.2]))
def test_the_terms_add_up_to_the_score(posts, pair, discount, share):
    recency, popularity = pair
    settings = TimelineSettings(
        recency_weight=recency,
        popularity_weight=popularity,
        author_discount=discount,
        exploration_share=share,
    )
    rerank = Reranking.of(settings, HEURISTIC) or reranking(recency_weight=0.5)
    catalog = snapshot(
        {
            post: {"author": author, "age": age * HOUR, "likes": post % 9}
            for post, (_, author, age) in enumerate(posts)
        }
    )
    post_ids, scores = order_ids(catalog, rerank, floats(*(score for score, _, _ in posts)))
    terms = rerank.terms(catalog, post_ids, scores, NOW)
    assert terms.names == ("relevance", "recency", "popularity", "author_diversity")
    assert terms.values.sum(axis=1).tolist() == pytest.approx(scores.tolist(), abs=1e-6)
    assert (terms.values[:, 3] <= 0).all()


@given(scored_posts, weights, st.sampled_from([0.5, 0.9, 1.0]))
def test_the_terms_of_an_unchanged_catalog_are_those_of_the_formula(posts, pair, discount):
    settings = TimelineSettings(recency_weight=pair[0], popularity_weight=pair[1], author_discount=discount)
    rerank = Reranking.of(settings, HEURISTIC) or reranking(author_discount=0.5)
    catalog = snapshot(
        {
            post: {"author": author, "age": age * HOUR, "likes": post % 9}
            for post, (_, author, age) in enumerate(posts)
        }
    )
    relevance = floats(*(score for score, _, _ in posts))
    post_ids, scores = order_ids(catalog, rerank, relevance)
    values = rerank.terms(catalog, post_ids, scores, NOW).values
    weight = 1 - rerank.recency_weight - rerank.popularity_weight
    assert values[:, 0].tolist() == pytest.approx((weight * relevance[post_ids]).tolist(), abs=1e-5)


def test_the_author_diversity_of_a_post_is_what_the_better_ones_cost_it():
    catalog = snapshot({1: {"author": 50}, 2: {"author": 50}, 3: {"author": 60}})
    terms = reranking(author_discount=0.5).terms(catalog, np.array([1, 3, 2]), floats(0.8, 0.5, 0.3), NOW)
    assert terms.values[:, 0].tolist() == pytest.approx([0.8, 0.5, 0.6])
    assert terms.values[:, 3].tolist() == pytest.approx([0.0, 0.0, -0.3])


def test_an_authors_better_post_costs_the_one_that_exploration_put_before_it():
    catalog = snapshot({1: {"author": 60}, 2: {"author": 50}, 3: {"author": 50}})
    rerank = reranking(author_discount=0.5, exploration_share=0.5)
    terms = rerank.terms(catalog, np.array([1, 2, 3]), floats(0.9, 0.1, 0.8), NOW)
    assert terms.values[:, 3].tolist() == pytest.approx([0.0, -0.1, 0.0])


def test_a_discount_too_small_for_a_number_leaves_terms_that_are_numbers():
    catalog = snapshot({post: {"author": 50} for post in range(200)})
    rerank = reranking(author_discount=0.001)
    post_ids, scores = order_ids(catalog, rerank, np.full(200, 0.5, np.float32), limit=200)
    values = rerank.terms(catalog, post_ids, scores, NOW).values
    assert np.isfinite(values).all()
    assert values[-1].tolist() == [0, 0, 0, 0]


def test_a_listed_post_that_the_catalog_no_longer_knows_has_its_score_as_relevance():
    catalog = snapshot({1: {"age": 0}})
    terms = reranking(recency_weight=0.5).terms(catalog, np.array([9, 1]), floats(0.9, 0.8), NOW)
    assert terms.values[0].tolist() == pytest.approx([0.9, 0, 0, 0])
    assert terms.values[1].tolist() == pytest.approx([0.3, 0.5, 0, 0])


def test_explored_posts_are_marked():
    # Places 1 and 3 are for exploration; 2 was there ahead of better ones, and has been liked since.
    catalog = snapshot({1: {"likes": 9}, 2: {"likes": 9}, 3: {"likes": 9}, 4: {"likes": 0}, 5: {"likes": 0}})
    listed = np.array([1, 2, 3, 4, 5]), floats(0.9, 0.2, 0.8, 0.7, 0.1)
    assert reranking(exploration_share=0.5).exploration(catalog, *listed).tolist() == [
        False, True, False, True, False,
    ]  # fmt: skip


def test_a_place_for_exploration_that_found_no_new_post_explores_nothing():
    catalog = snapshot({1: {"likes": 9}, 2: {"likes": 9}})
    listed = np.array([1, 2]), floats(0.9, 0.2)
    assert not reranking(exploration_share=0.5).exploration(catalog, *listed).any()


def test_without_exploration_no_post_holds_such_a_place():
    catalog = snapshot({1: {}, 2: {}})
    listed = np.array([1, 2]), floats(0.9, 0.2)
    assert reranking(author_discount=0.5).exploration(catalog, *listed).tolist() == [False, False]
