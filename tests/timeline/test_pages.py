"""Pages are full, in order, without repeats or gaps, whatever posts are hidden during a scroll."""

from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from animora_server.settings import TimelineSettings
from animora_server.timeline.eligibility import VisibilityFilter
from animora_server.timeline.pages import merge_order, paginate, paginate_merged
from animora_server.types import BoolArray, FloatArray, IntArray
from tests.support.catalogs import NOW, snapshot

USER = 7


@dataclass(frozen=True, slots=True)
class Posts:
    """Posts with scores."""

    post_ids: IntArray
    scores: FloatArray


def ids(*post_ids: int) -> IntArray:
    return np.array(post_ids, np.int64)


def posts(first: int, *scores: float) -> Posts:
    """Posts numbered from the first on."""
    return Posts(np.arange(first, first + len(scores)), np.array(scores, np.float32))


def hiding(hidden: set[int]):
    return lambda post_ids: ~np.isin(post_ids, list(hidden))


def everything(post_ids: IntArray) -> BoolArray:
    return np.ones(len(post_ids), np.bool_)


def scroll(post_ids: IntArray, pages, offset: int | None = 0) -> list[list[int]]:
    """The pages (size, what is hidden) cut one after the other, the last again and again."""
    shown = []
    visits = chain(pages, repeat(pages[-1]))
    while offset is not None:
        size, hidden = next(visits)
        page = paginate(post_ids, offset, size, hiding(hidden))
        shown.append(post_ids[page.positions].tolist())
        offset = page.next_offset
    return shown


def walk(post_ids: IntArray, pages) -> list[list[int]]:
    """What scroll must give, post by post."""
    left = post_ids.tolist()
    shown: list[list[int]] = []
    for size, hidden in chain(pages, repeat(pages[-1])):
        shown.append([])
        while left and len(shown[-1]) < size:
            post = left.pop(0)
            if post not in hidden:
                shown[-1].append(post)
        if not set(left) - hidden:
            break
    return shown


lists = st.lists(st.integers(0, 400), unique=True, max_size=200).map(lambda posts: ids(*posts))
growing = st.lists(
    st.tuples(st.integers(1, 30), st.sets(st.integers(0, 400), max_size=150)), min_size=1, max_size=8
).map(
    lambda pages: [
        (size, set().union(*(hidden for _, hidden in pages[: at + 1]))) for at, (size, _) in enumerate(pages)
    ]
)


@given(lists, growing)
def test_pages_are_the_timeline_without_the_posts_hidden_when_each_page_is_cut(post_ids, pages):
    shown = scroll(post_ids, pages)
    assert shown == walk(post_ids, pages)
    flat = [post for page in shown for post in page]
    assert len(flat) == len(set(flat))


def test_the_last_page_says_so_even_where_it_is_full():
    assert paginate(ids(1, 2, 3, 4), 0, 4, everything).next_offset is None
    assert paginate(ids(1, 2, 3, 4), 0, 3, everything).next_offset == 3


def test_a_page_is_the_last_where_only_hidden_posts_follow():
    page = paginate(ids(1, 2, 3, 4), 0, 2, hiding({3, 4}))
    assert page.positions.tolist() == [0, 1]
    assert page.next_offset is None


def test_a_page_skips_hidden_posts_until_it_is_full():
    post_ids = np.arange(1000)
    page = paginate(post_ids, 0, 2, hiding(set(range(900))))
    assert page.positions.tolist() == [900, 901]
    assert page.next_offset == 902


def test_a_full_page_is_the_last_only_if_no_visible_post_follows():
    post_ids = np.arange(1000)
    for last, next_offset in ((999, 2), (1, None)):
        page = paginate(post_ids, 0, 2, hiding(set(range(1000)) - {0, 1, last}))
        assert page.positions.tolist() == [0, 1]
        assert page.next_offset == next_offset


def test_an_empty_timeline_and_an_offset_at_the_end_are_empty_last_pages():
    for post_ids, offset in ((ids(), 0), (ids(1, 2), 2), (ids(1, 2), 9)):
        page = paginate(post_ids, offset, 5, everything)
        assert page.positions.tolist() == []
        assert page.positions.dtype == np.int64
        assert page.next_offset is None


@given(st.data())
def test_posts_that_are_hidden_during_a_scroll_are_not_shown_later_in_it(data):
    world = {post: {"author": 100 + post % 6, "age": post} for post in range(60)}
    listed = np.array(data.draw(st.permutations(range(60))))
    blocked, deleted, gone, seen = set(), set(), set(), set()
    settings = TimelineSettings()
    shown: list[int] = []
    offset: int | None = 0
    while offset is not None:
        blocked |= data.draw(st.sets(st.integers(100, 105), max_size=1))
        deleted |= data.draw(st.sets(st.integers(0, 59), max_size=2))
        gone |= data.draw(st.sets(st.integers(0, 59), max_size=2))
        seen |= data.draw(st.sets(st.integers(0, 59), max_size=2))
        catalog = snapshot(
            {post: fact | {"deleted": post in deleted} for post, fact in world.items() if post not in gone},
            blocks=[(USER, author) for author in blocked],
            seen=[(USER, post) for post in seen],
        )
        visibility = VisibilityFilter.of(catalog, settings, NOW, USER, include_seen=False)
        hidden = deleted | gone | seen | {post for post in world if 100 + post % 6 in blocked}
        page = paginate(listed, offset, data.draw(st.integers(1, 20)), visibility.shown)
        posts_shown = listed[page.positions].tolist()
        assert not hidden & set(posts_shown)
        turned = listed[offset : page.next_offset].tolist()
        assert posts_shown == [post for post in turned if post not in hidden]
        shown += posts_shown
        offset = page.next_offset
    assert len(shown) == len(set(shown))


def test_newer_posts_are_merged_by_score_and_win_ties():
    order = merge_order(np.array([0.9, 0.5, 0.1], np.float32), np.array([0.95, 0.5, 0.2, 0.0], np.float32))
    assert order.tolist() == [3, 0, 4, 1, 5, 2, 6]


def test_an_explored_post_lets_no_more_newer_posts_pass():
    scores = np.array([0.9, 0.1, 0.8, 0.2], np.float32)
    assert merge_order(scores, np.array([0.85, 0.5], np.float32)).tolist() == [0, 4, 1, 2, 5, 3]


def test_newer_posts_keep_an_order_with_exploration():
    order = merge_order(np.array([0.9, 0.5, 0.1], np.float32), np.array([0.3, 0.7], np.float32))
    assert order.tolist() == [0, 1, 3, 4, 2]


@given(
    st.lists(st.integers(0, 20), max_size=30),
    st.lists(st.integers(0, 20), max_size=30),
)
def test_merging_keeps_both_orders(scores, newer):
    count = len(scores)
    order = merge_order(np.array(scores, np.float32), np.array(newer, np.float32))
    assert [at for at in order.tolist() if at < count] == list(range(count))
    assert [at for at in order.tolist() if at >= count] == list(range(count, count + len(newer)))


@given(
    st.lists(st.integers(0, 20), max_size=30),
    st.lists(st.integers(0, 20), max_size=30),
    st.integers(1, 15),
    st.sets(st.integers(0, 129), max_size=60),
)
def test_a_scroll_that_began_with_newer_posts_shows_all_of_the_timeline_once(scores, newer, size, hidden):
    listed, newer = posts(0, *sorted(scores, reverse=True)), posts(100, *sorted(newer, reverse=True))
    both = np.concatenate((listed.post_ids, newer.post_ids))
    first = paginate_merged(listed, newer, size, hiding(hidden))
    page = both[first.positions].tolist()
    order = both[merge_order(listed.scores, newer.scores)].tolist()
    assert page == [post for post in order if post not in hidden][:size]
    later = scroll(listed.post_ids, [(size, hidden)], first.next_offset)
    shown = page + [post for page in later for post in page]
    assert [post for post in shown if post < 100] == [
        post for post in range(len(scores)) if post not in hidden
    ]
    assert all(later)  # a token leads to a page with posts


def test_newer_posts_beyond_the_first_page_give_no_token_for_themselves():
    page = paginate_merged(posts(0, 0.9), posts(100, 0.5, 0.4), 2, everything)
    assert page.positions.tolist() == [0, 1]
    assert page.next_offset is None
