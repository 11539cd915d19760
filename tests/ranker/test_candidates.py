"""Candidates: which are dropped, for which reason, and which are scored."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_server.catalog import CatalogSnapshot
from animora_server.ranker.candidates import Candidates, filter_candidates
from animora_server.types import DropReason, RankQuery
from tests.support.catalogs import snapshot


def query(*post_ids: int, user: int = 7, **options) -> RankQuery:
    return RankQuery(user_id=user, post_ids=np.array(post_ids, np.int64), deadline=0.0, **options)


def filter_one(catalog: CatalogSnapshot, one: RankQuery) -> Candidates:
    """The candidates of a single query."""
    return filter_candidates(catalog, [one])


def dropped(candidates) -> dict[str, int]:
    (counts,) = candidates.dropped
    return {reason.value: count for reason, count in counts.items() if count}


def shown(candidates):
    return candidates.post_ids[candidates.eligible].tolist()


def test_candidates_are_in_canonical_order_whatever_the_order_of_the_request():
    catalog = snapshot({30: {}, 10: {}, 20: {}})
    candidates = filter_one(catalog, query(20, 30, 10))
    assert candidates.post_ids.tolist() == [10, 20, 30]
    assert catalog.post_ids[candidates.rows].tolist() == [10, 20, 30]
    assert dropped(candidates) == {}


def test_a_repeated_candidate_counts_once_and_its_repeats_are_dropped():
    candidates = filter_one(snapshot({1: {}}), query(1, 1, 1))
    assert shown(candidates) == [1]
    assert dropped(candidates) == {"duplicate": 2}


@pytest.mark.failure(3)
def test_ids_unknown_to_the_catalog_are_dropped_up_to_the_ends_of_64_bits():
    limits = np.iinfo(np.int64)
    candidates = filter_one(snapshot({0: {}, 1: {}}), query(0, 1, 2, int(limits.min), int(limits.max)))
    assert shown(candidates) == [0, 1]
    assert dropped(candidates) == {"unknown": 3}


def test_with_an_empty_catalog_every_candidate_is_unknown():
    candidates = filter_one(snapshot({}), query(1, 2))
    assert shown(candidates) == []
    assert dropped(candidates) == {"unknown": 2}


def test_deleted_posts_are_dropped():
    assert dropped(filter_one(snapshot({1: {"deleted": 1}, 2: {}}), query(1, 2))) == {"deleted": 1}


def test_a_block_hides_posts_in_both_directions():
    posts = {1: {"author": 50}, 2: {"author": 60}, 3: {"author": 70}}
    catalog = snapshot(posts, blocks=[(7, 50), (60, 7), (60, 70)])
    assert shown(filter_one(catalog, query(1, 2, 3, user=7))) == [3]
    assert shown(filter_one(catalog, query(1, 2, 3, user=50))) == [1, 2, 3]
    assert shown(filter_one(catalog, query(1, 2, 3, user=60))) == [1, 2]


def test_seen_posts_are_dropped_with_exclude_seen_alone():
    catalog = snapshot({1: {}, 2: {}}, seen=[(7, 1), (8, 2)])
    assert shown(filter_one(catalog, query(1, 2))) == [1, 2]
    candidates = filter_one(catalog, query(1, 2, exclude_seen=True))
    assert shown(candidates) == [2]
    assert dropped(candidates) == {"seen": 1}


def test_a_dropped_candidate_counts_for_the_first_reason_alone():
    catalog = snapshot({1: {"deleted": 1, "author": 50}}, blocks=[(7, 50)], seen=[(7, 1)])
    excluded = np.array([1, 99], np.int64)
    assert dropped(filter_one(catalog, query(1, 99, exclude_seen=True, exclude_post_ids=excluded))) == {
        "excluded": 2
    }
    assert dropped(filter_one(catalog, query(1, exclude_seen=True))) == {"deleted": 1}


def test_with_explain_each_dropped_candidate_has_its_first_reason():
    posts = {1: {"deleted": 1, "author": 50}, 2: {"author": 50}, 3: {}, 4: {}, 5: {}}
    catalog = snapshot(posts, blocks=[(7, 50)], seen=[(7, 1), (7, 2), (7, 3), (7, 4)])
    options: dict[str, Any] = {"exclude_seen": True, "exclude_post_ids": np.array([4, 99], np.int64)}
    explained = filter_one(catalog, query(5, 4, 3, 3, 2, 1, 98, 99, explain=True, **options))
    assert explained.dropped_posts[0] == {
        1: DropReason.DELETED,
        2: DropReason.BLOCKED,
        3: DropReason.SEEN,
        4: DropReason.EXCLUDED,
        98: DropReason.UNKNOWN,
        99: DropReason.EXCLUDED,
    }
    assert not filter_one(catalog, query(5, 4, 3, 2, 1, **options)).dropped_posts[0]


def test_known_candidates_that_are_not_eligible_are_scored():
    catalog = snapshot({1: {"deleted": 1}, 2: {"author": 50}, 3: {}}, blocks=[(7, 50)])
    candidates = filter_one(catalog, query(1, 2, 3, 4))
    assert candidates.post_ids.tolist() == [1, 2, 3]
    assert candidates.eligible.tolist() == [False, False, True]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.lists(st.integers(0, 30), max_size=10))
def test_every_candidate_is_either_shown_or_counted(post_ids, excluded):
    posts = {post: {"author": post % 5, "deleted": float(post % 7 == 0)} for post in range(0, 30, 2)}
    catalog = snapshot(posts, blocks=[(7, 3)], seen=[(7, 4), (7, 8)])
    request = query(*post_ids, exclude_seen=True, exclude_post_ids=np.array(excluded, np.int64), explain=True)
    candidates = filter_one(catalog, request)
    (counts,), (posts_dropped,) = candidates.dropped, candidates.dropped_posts
    assert len(shown(candidates)) + sum(counts.values()) == len(post_ids)
    assert set(counts) <= set(DropReason)
    assert not set(shown(candidates)) & set(excluded)
    assert set(shown(candidates)) | set(posts_dropped) == set(post_ids)
    reasons = Counter({DropReason.DUPLICATE: len(post_ids) - len(set(post_ids))})
    reasons.update(posts_dropped.values())
    assert reasons == Counter(counts)


IDS = st.lists(st.integers(0, 30), min_size=1, max_size=20)


@given(st.lists(st.tuples(st.integers(5, 9), IDS, IDS, st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_a_query_has_the_same_candidates_in_a_batch_as_alone(drawn):
    posts = {post: {"author": post % 5, "deleted": float(post % 7 == 0)} for post in range(0, 30, 2)}
    catalog = snapshot(posts, blocks=[(7, 3), (8, 1)], seen=[(7, 4), (7, 8), (9, 2)])
    queries = [
        query(*ids, user=user, exclude_post_ids=np.array(excluded[1:]), exclude_seen=seen, explain=explain)
        for user, ids, excluded, seen, explain in drawn
    ]
    batch = filter_candidates(catalog, queries)
    assert batch.sizes.sum() == len(batch.post_ids)
    for number, one in enumerate(queries):
        in_batch, alone = batch.subset([number]), filter_one(catalog, one)
        for name in ("post_ids", "rows", "eligible", "ends"):
            assert getattr(in_batch, name).tolist() == getattr(alone, name).tolist()
        assert in_batch.dropped == alone.dropped
        assert in_batch.dropped_posts == alone.dropped_posts


@given(
    st.lists(st.integers(0, 40), max_size=40),
    st.lists(st.integers(100, 110), max_size=11, unique=True),
    st.lists(st.integers(0, 45), min_size=1, max_size=50),
)
def test_a_user_may_have_seen_or_blocked_more_posts_than_are_requested(seen, blocked, post_ids):
    authors = {post: 100 + post % 11 for post in range(40)}
    catalog = snapshot(
        {post: {"author": author} for post, author in authors.items()},
        blocks=[(7, author) for author in blocked],
        seen=[(7, post) for post in seen],
    )
    expected = {
        post for post in post_ids if post in authors and authors[post] not in blocked and post not in seen
    }
    assert set(shown(filter_one(catalog, query(*post_ids, exclude_seen=True)))) == expected


def test_filtering_does_not_change_the_query():
    request = query(3, 1, 2, 1)
    filter_one(snapshot({1: {}, 2: {}, 3: {}}), request)
    assert request.post_ids.tolist() == [3, 1, 2, 1]
