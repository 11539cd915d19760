from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from animora_server.catalog import CatalogPosts, FeedIndex

times = st.integers(0, 5).map(float)


def table_of(created_at, deleted):
    """A table of which the feed asks the times and the deletions alone."""
    return replace(
        CatalogPosts.empty(None),
        created_at=np.array(created_at, np.float64),
        deleted=np.array(deleted, np.bool_),
    )


@st.composite
def tables(draw):
    """Tables of one epoch, one after the other: posts come, go, come back, and change their time."""
    created_at: list[float] = []
    one_after_the_other = []
    for _ in range(draw(st.integers(1, 5))):
        created_at = created_at + draw(st.lists(times, max_size=6))
        if created_at and draw(st.booleans()):
            created_at = created_at.copy()
            created_at[draw(st.integers(0, len(created_at) - 1))] = draw(times)
        deleted = draw(st.lists(st.booleans(), min_size=len(created_at), max_size=len(created_at)))
        one_after_the_other.append(table_of(created_at, deleted))
    return one_after_the_other


@given(tables())
def test_an_updated_feed_is_a_feed_made_anew(one_after_the_other):
    feed = FeedIndex.empty()
    for table in one_after_the_other:
        feed = feed.updated(table)

        anew = FeedIndex.of(table.created_at, np.flatnonzero(~table.deleted))
        assert feed.created_at.tolist() == anew.created_at.tolist()
        assert sorted(feed.rows.tolist()) == sorted(anew.rows.tolist())
        assert table.created_at[feed.rows].tolist() == feed.created_at.tolist()


def test_posts_of_one_time_are_in_the_order_in_which_they_came():
    feed = FeedIndex.empty().updated(table_of([5, 5], [False, False]))

    assert feed.updated(table_of([5, 5, 5, 4], [False] * 4)).rows.tolist() == [3, 0, 1, 2]


def test_a_restored_post_is_back_at_its_age():
    feed = FeedIndex.empty().updated(table_of([1, 2, 3], [False, True, False]))
    assert feed.rows.tolist() == [0, 2]

    assert feed.updated(table_of([1, 2, 3], [False, False, False])).rows.tolist() == [0, 1, 2]


@given(st.lists(times), times, st.integers(1, 4))
def test_the_newest_are_the_last_made_since_a_time(created_at, since, limit):
    feed = FeedIndex.of(np.array(created_at, np.float64), np.arange(len(created_at)))

    newest = feed.newest(since, limit)

    expected = sorted(time for time in created_at if time >= since)[-limit:]
    assert [created_at[row] for row in newest] == expected
