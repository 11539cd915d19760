import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from animora_server.catalog import FeedIndex

times = st.integers(0, 5).map(float)


def columns_of(created_at, deleted):
    """The columns of a table that the feed index reads."""
    return np.array(created_at, np.float64), np.array(deleted, np.bool_)


@st.composite
def tables(draw):
    """Successive tables of one epoch: posts are added, deleted, restored, and change their time."""
    created_at: list[float] = []
    successive_tables = []
    for _ in range(draw(st.integers(1, 5))):
        created_at = created_at + draw(st.lists(times, max_size=6))
        if created_at and draw(st.booleans()):
            created_at = created_at.copy()
            created_at[draw(st.integers(0, len(created_at) - 1))] = draw(times)
        deleted = draw(st.lists(st.booleans(), min_size=len(created_at), max_size=len(created_at)))
        successive_tables.append(columns_of(created_at, deleted))
    return successive_tables


@given(tables())
def test_an_updated_feed_equals_a_rebuilt_one(successive_tables):
    feed = FeedIndex.empty()
    for created_at, deleted in successive_tables:
        feed = feed.updated(created_at, deleted)

        rebuilt = FeedIndex.of(created_at, np.flatnonzero(~deleted))
        assert feed.created_at.tolist() == rebuilt.created_at.tolist()
        assert sorted(feed.rows.tolist()) == sorted(rebuilt.rows.tolist())
        assert created_at[feed.rows].tolist() == feed.created_at.tolist()


def test_posts_of_equal_time_are_in_order_of_arrival():
    feed = FeedIndex.empty().updated(*columns_of([5, 5], [False, False]))

    assert feed.updated(*columns_of([5, 5, 5, 4], [False] * 4)).rows.tolist() == [3, 0, 1, 2]


def test_a_restored_post_is_back_at_its_age():
    feed = FeedIndex.empty().updated(*columns_of([1, 2, 3], [False, True, False]))
    assert feed.rows.tolist() == [0, 2]

    assert feed.updated(*columns_of([1, 2, 3], [False, False, False])).rows.tolist() == [0, 1, 2]


@given(st.lists(times), times, st.integers(1, 4))
def test_newest_returns_the_last_posts_made_since_a_time(created_at, since, limit):
    feed = FeedIndex.of(np.array(created_at, np.float64), np.arange(len(created_at)))

    newest = feed.newest(since, limit)

    expected = sorted(time for time in created_at if time >= since)[-limit:]
    assert [created_at[row] for row in newest] == expected
