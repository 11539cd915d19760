from datetime import UTC, datetime, timedelta

import pytest

NOW = datetime(2026, 1, 1, tzinfo=UTC)
USERS = range(1, 21)


@pytest.fixture
async def activity(database):
    """Users 3 and 5 did two things each on the last day, user 2 one, user 9 ten long ago."""
    await database.execute("insert into animora_app.posts (id, author_id) select generate_series(1, 10), 1")
    likes = [(3, 1, NOW), (5, 1, NOW), (2, 1, NOW), (2, 2, NOW - timedelta(days=2))]
    likes += [(9, post, NOW - timedelta(days=2)) for post in range(1, 11)]
    await database.executemany(
        "insert into animora_app.likes (user_id, post_id, created_at) values ($1, $2, $3)", likes
    )
    await database.executemany(
        "insert into animora_app.comments (user_id, post_id, body, created_at)"
        " values ($1, $2, 'So nice', $3)",
        [(5, 1, NOW), (3, 2, NOW)],
    )


async def test_all_users_are_read_by_id(database, store):
    async with store.reading() as reading:
        assert (await reading.users()).tolist() == [*USERS]


async def test_active_users_are_read_most_active_first_then_by_id(activity, store):
    async with store.reading() as reading:
        assert (await reading.users(NOW - timedelta(days=1))).tolist() == [3, 5, 2]


async def test_without_active_users_none_are_read(database, store):
    async with store.reading() as reading:
        assert (await reading.users(NOW)).tolist() == []
