"""The histories of a catalog that follows a database."""

import asyncpg
import numpy as np
import pytest

from animora_database.views import INTERACTION_KINDS
from animora_server.settings import CatalogSettings
from tests.store.follower import Follower

LIKE, COMMENT = map(INTERACTION_KINDS.index, ("like", "comment"))


@pytest.fixture
async def database(database):
    """The database, with nine posts."""
    await database.execute(
        "insert into animora_app.posts (id, author_id) select n, n from generate_series(1, 9) as n"
    )
    return database


@pytest.fixture
async def follower(database, store):
    follower = Follower(store)
    await follower.reconcile()
    return follower


async def like(database, post, age="0 seconds"):
    """User 1 likes a post."""
    await database.execute(f"insert into animora_app.likes values (1, {post}, now() - interval '{age}')")


async def comment(database, post, age="0 seconds"):
    """User 1 comments on a post."""
    await database.execute(
        "insert into animora_app.comments (user_id, post_id, created_at)"
        f" values (1, {post}, now() - interval '{age}')"
    )


def posts(follower, user=1):
    return follower.snapshot.history_of(user).post_ids.tolist()


async def test_a_like_is_in_the_next_refresh_in_order(database, follower):
    await like(database, 5, "2 seconds")
    await follower.poll()
    await like(database, 3)
    await follower.poll()

    assert posts(follower) == [5, 3]
    assert posts(follower, user=2) == []


async def test_an_event_has_its_kind_and_its_time(database, follower):
    await like(database, 5, "20 days")
    await comment(database, 5, "4 minutes")
    await comment(database, 5, "2 minutes")
    await follower.reconcile()

    history = follower.snapshot.history_of(1)

    assert history.post_ids.tolist() == [5, 5]
    assert history.kinds.tolist() == [LIKE, COMMENT]
    ages = follower.snapshot.read_at - history.times
    assert np.allclose(ages, [20 * 86_400, 120], atol=60)


async def test_an_older_like_that_is_committed_late_is_placed_by_its_time(database, postgres_url, follower):
    late = await asyncpg.connect(postgres_url)
    async with late.transaction():
        await like(late, 7, "1 minute")
        await like(database, 3)
        await follower.poll()
        assert posts(follower) == [3]
    await late.close()

    await follower.poll()

    assert posts(follower) == [7, 3]


async def test_a_like_committed_after_the_recount_window_is_placed_by_a_reconcile(database, follower):
    await like(database, 3)
    await follower.poll()
    await like(database, 7, "1 hour")
    await follower.poll()
    assert posts(follower) == [3]

    await follower.reconcile()

    assert posts(follower) == [7, 3]


async def test_a_recent_like_that_is_taken_back_leaves_with_the_next_refresh(database, follower):
    await like(database, 7, "1 hour")
    await like(database, 3)
    await follower.reconcile()
    assert posts(follower) == [7, 3]
    await database.execute("delete from animora_app.likes")

    await follower.poll()
    assert posts(follower) == [7]

    await follower.reconcile()
    assert posts(follower) == []


async def test_histories_keep_the_last_events_across_the_recount_window(database, store):
    follower = Follower(store, CatalogSettings(history=3))
    for post in range(1, 5):
        await like(database, post, f"{post} hours")
    await follower.reconcile()
    assert posts(follower) == [3, 2, 1]
    await comment(database, 1)
    await like(database, 9, "1 minute")

    await follower.poll()

    assert posts(follower) == [1, 9, 1]
    await database.execute("delete from animora_app.comments")
    await follower.poll()
    assert posts(follower) == [2, 1, 9]


async def test_histories_of_several_users_are_by_position(database, follower):
    await database.execute(
        "insert into animora_app.likes values (2, 4, now() - interval '1 day'), (3, 6, now()), (2, 5, now())"
    )
    await follower.reconcile()

    batch = follower.snapshot.histories_of_each(np.array([3, 1, 2, 3]))

    assert [history.post_ids.tolist() for history in batch] == [[6], [], [4, 5], [6]]


async def test_events_with_deleted_posts_stay(database, follower):
    await like(database, 5)
    await database.execute("update animora_app.posts set deleted_at = now() where id = 5")

    await follower.poll()

    assert posts(follower) == [5]


async def test_events_before_the_seen_window_are_not_kept(database, follower):
    await like(database, 5, "400 days")

    await follower.reconcile()

    assert posts(follower) == []


async def test_without_histories_nothing_more_is_kept(database, store):
    follower = Follower(store, CatalogSettings(history=0))
    await like(database, 1, "1 hour")
    await like(database, 2)

    await follower.reconcile()

    assert posts(follower) == []
    assert follower.snapshot.seen_posts(1).tolist() == [1, 2]
    assert (
        len(follower.snapshot.histories.base.user_ids)
        == len(follower.snapshot.histories.recent.user_ids)
        == 0
    )
    assert len(follower.catalog.activity.recent.times) == 0
