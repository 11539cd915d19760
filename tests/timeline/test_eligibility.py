"""Eligibility: candidates, visibility, and the reasons for missing posts."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_server.catalog import CatalogSnapshot
from animora_server.settings import TimelineSettings
from animora_server.timeline.eligibility import (
    DAY,
    VisibilityFilter,
    candidates,
    exclusion_reasons,
)
from animora_server.types import DropReason, IntArray
from tests.support.catalogs import NOW, snapshot

USER = 7
SETTINGS = TimelineSettings(window_days=2)
# One post for each drop reason; post 1 has none.
WORLD = snapshot(
    {
        1: {"author": 50},
        2: {"author": 50, "deleted": 1},
        3: {"author": 60},
        4: {"author": 50},
        5: {"author": USER},
        6: {"author": 50, "age": 3 * DAY},
        7: {"author": 50},
    },
    blocks=[(60, USER)],
    seen=[(USER, 4), (USER, 1_000)],
)


def ids(*post_ids: int) -> IntArray:
    return np.array(post_ids, np.int64)


def visibility(
    catalog: CatalogSnapshot,
    settings: TimelineSettings = SETTINGS,
    include_seen: bool = False,
    excluded: IntArray | None = None,
) -> VisibilityFilter:
    return VisibilityFilter.of(
        catalog, settings, NOW, USER, include_seen, ids() if excluded is None else excluded
    )


def candidate_ids(whose: VisibilityFilter, settings: TimelineSettings = SETTINGS) -> list[int]:
    return list(map(int, whose.catalog.post_ids[candidates(whose, settings.max_candidates)]))


def shown_ids(whose: VisibilityFilter, *post_ids: int) -> list[int]:
    given_ids = ids(*post_ids)
    return list(map(int, given_ids[whose.shown(given_ids)]))


def reasons(
    whose: VisibilityFilter,
    post_ids: IntArray,
    in_timeline: IntArray,
    settings: TimelineSettings = SETTINGS,
) -> Mapping[int, DropReason]:
    return exclusion_reasons(whose, post_ids, in_timeline, settings.max_candidates)


def test_candidates_exclude_deleted_own_seen_and_old_posts_but_not_blocked_authors():
    assert candidate_ids(visibility(WORLD, excluded=ids(1))) == [1, 3, 7]


def test_candidates_include_own_and_seen_posts_on_request():
    settings = SETTINGS.model_copy(update={"include_own": True})
    assert candidate_ids(visibility(WORLD, settings, include_seen=True), settings) == [1, 3, 4, 5, 7]


def test_a_post_deleted_after_the_feed_was_read_is_no_candidate():
    catalog = snapshot({1: {}, 2: {}})
    catalog = replace(catalog, deleted=np.array([False, True]))
    assert candidate_ids(visibility(catalog)) == [1]


def test_only_the_newest_posts_are_candidates_if_there_are_too_many():
    catalog = snapshot({post: {"age": 10 * post} for post in range(20)})
    settings = TimelineSettings(max_candidates=3)
    assert candidate_ids(visibility(catalog), settings) == [2, 1, 0]


def test_a_post_is_a_candidate_up_to_the_second_that_the_window_ends():
    catalog = snapshot({1: {"age": 2 * DAY}, 2: {"age": 2 * DAY + 1}})
    assert candidate_ids(visibility(catalog)) == [1]
    assert shown_ids(visibility(catalog), 1, 2) == [1]


def test_unknown_deleted_blocked_seen_own_and_old_posts_are_hidden():
    assert shown_ids(visibility(WORLD), *range(10)) == [1, 7]


def test_visibility_is_in_the_order_of_the_posts():
    assert shown_ids(visibility(WORLD), 7, 6, 1) == [7, 1]


def test_own_and_seen_posts_are_shown_on_request():
    settings = SETTINGS.model_copy(update={"include_own": True})
    assert shown_ids(visibility(WORLD, settings, include_seen=True), *range(10)) == [1, 4, 5, 7]


def test_excluded_posts_are_hidden_in_any_order():
    assert shown_ids(visibility(WORLD, excluded=ids(9, 7, 0)), 1, 7) == [1]


@pytest.mark.parametrize("pair", [(USER, 50), (50, USER)])
def test_a_block_hides_in_both_directions(pair):
    catalog = snapshot({1: {"author": 50}, 2: {"author": 60}}, blocks=[pair])
    assert shown_ids(visibility(catalog), 1, 2) == [2]


def test_nothing_of_an_empty_catalog_is_shown():
    catalog = snapshot({})
    assert shown_ids(visibility(catalog), 1, 2) == []
    assert candidate_ids(visibility(catalog)) == []


events = st.fixed_dictionaries(
    {
        "author": st.integers(5, 9),
        "age": st.integers(0, 4).map(lambda days: days * DAY),
        "deleted": st.booleans(),
    }
)
pairs = st.lists(st.permutations(range(5, 10)).map(lambda users: (users[0], users[1])), max_size=4)


@given(
    st.dictionaries(st.integers(0, 30), events, max_size=20),
    pairs,
    st.sets(st.integers(0, 30), max_size=8),
    st.sets(st.integers(0, 30), max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_exactly_the_posts_without_a_reason_are_shown(
    posts, blocks, seen, excluded, include_seen, include_own
):
    catalog = snapshot(posts, blocks=blocks, seen=[(USER, post) for post in seen])
    settings = TimelineSettings(window_days=2, include_own=include_own)
    whose = visibility(catalog, settings, include_seen, ids(*excluded))
    related = {author for pair in blocks if USER in pair for author in pair if author != USER}
    expected = [
        post
        for post in range(31)
        if post in posts
        and not posts[post]["deleted"]
        and posts[post]["age"] <= 2 * DAY
        and posts[post]["author"] not in related
        and (include_own or posts[post]["author"] != USER)
        and (include_seen or post not in seen)
        and post not in excluded
    ]
    assert shown_ids(whose, *range(31)) == expected
    # Where the timeline holds all posts, exactly the hidden ones have a reason.
    found_reasons = reasons(whose, np.arange(31), np.arange(31), settings)
    assert sorted(set(range(31)) - set(found_reasons)) == expected
    in_timeline = set(candidate_ids(whose, settings))
    assert in_timeline >= set(expected)
    assert all(found_reasons[post] in {"blocked", "excluded"} for post in in_timeline - set(expected))


def test_each_reason_is_given():
    in_timeline = ids(1)
    found_reasons = reasons(visibility(WORLD, excluded=ids(8)), ids(*range(1, 10)), in_timeline)
    assert found_reasons == {
        2: "deleted",
        3: "blocked",
        4: "seen",
        5: "own",
        6: "too_old",
        7: "outranked",
        8: "excluded",
        9: "unknown",
    }


def test_reasons_come_by_ascending_id_and_once_each():
    assert list(reasons(visibility(WORLD), ids(9, 2, 9, 3), ids(1))) == [2, 3, 9]


def test_the_first_reason_that_applies_is_given():
    order = [
        ({"deleted": 1, "author": USER, "age": 3 * DAY}, True, "excluded"),
        ({"deleted": 1, "author": USER, "age": 3 * DAY}, False, "deleted"),
        ({"author": USER, "age": 3 * DAY}, False, "blocked"),
    ]
    for post, exclude, reason in order:
        catalog = snapshot({1: post}, blocks=[(USER, USER)], seen=[(USER, 1)])
        whose = visibility(catalog, excluded=ids(1) if exclude else ids())
        assert reasons(whose, ids(1), ids()) == {1: reason}
    own_and_seen = snapshot({1: {"author": USER}}, seen=[(USER, 1)])
    assert reasons(visibility(own_and_seen), ids(1), ids()) == {1: "seen"}
    own_and_old = snapshot({1: {"author": USER, "age": 3 * DAY}})
    assert reasons(visibility(own_and_old), ids(1), ids()) == {1: "own"}


def test_a_post_behind_as_many_newer_ones_as_are_ranked_is_too_old():
    catalog = snapshot({1: {"age": 30}, 2: {"age": 20}, 3: {"age": 10}})
    settings = TimelineSettings(max_candidates=2)
    whose = visibility(catalog, settings)
    assert reasons(whose, ids(1, 2, 3), ids(3), settings) == {1: "too_old", 2: "outranked"}


def test_a_ranked_post_is_in_the_timeline_however_many_arrived_since():
    catalog = snapshot({1: {"age": 30}, 2: {"age": 20}, 3: {"age": 10}})
    settings = TimelineSettings(max_candidates=2)
    assert reasons(visibility(catalog, settings), ids(1), ids(1), settings) == {}


def test_an_empty_catalog_knows_no_post():
    catalog = snapshot({})
    whose = visibility(catalog, excluded=ids(2))
    assert reasons(whose, ids(1, 2), ids(1)) == {1: "unknown", 2: "excluded"}
