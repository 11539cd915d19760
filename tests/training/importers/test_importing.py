from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from animora_training.data.database import Database, connect
from animora_training.data.reading import read_dataset
from animora_training.errors import DatabaseError
from animora_training.importers.importing import check_empty, import_feed, replace_feed
from tests.support.datasets import as_dataset, tiny_feed


def ignore(*progress):
    pass


async def test_the_views_show_the_imported_feed(postgres_url, tmp_path):
    feed = tiny_feed()
    feed.posts.image[5] = 0.0
    async with connect(Database(postgres_url)) as connection:
        await import_feed(connection, feed, ignore)
        read = await read_dataset(connection, tmp_path, ignore)
    expected = as_dataset(feed)
    np.testing.assert_array_equal(read.user_ids, expected.user_ids)
    np.testing.assert_array_equal(read.blocks, expected.blocks)
    for name in ("ids", "authors", "deleted", "image", "caption"):
        np.testing.assert_array_equal(getattr(read.posts, name), getattr(expected.posts, name))
    np.testing.assert_allclose(read.posts.created, expected.posts.created, atol=1e-6)
    np.testing.assert_array_equal(read.events.users, expected.events.users)
    np.testing.assert_array_equal(read.events.posts, expected.events.posts)
    np.testing.assert_allclose(read.events.times, expected.events.times, atol=1e-6)


async def test_texts_times_and_absent_embeddings_are_imported(postgres_url):
    feed = tiny_feed()
    feed.posts.image[0] = 0.0
    async with connect(Database(postgres_url)) as connection:
        await import_feed(connection, feed, ignore)
        post = await connection.fetchrow("select * from animora_app.posts where id = 1")
        deleted = await connection.fetchval("select count(deleted_at) from animora_app.posts")
        body = await connection.fetchval("select body from animora_app.comments order by id limit 1")
    assert post["caption"] == feed.posts.captions[0]
    assert post["image_embedding"] is None
    assert len(post["caption_embedding"]) == 24
    created = datetime.fromtimestamp(feed.posts.created[0], UTC)
    assert abs((post["created_at"] - created).total_seconds()) < 1e-5
    assert deleted == (~np.isnan(feed.posts.deleted)).sum()
    assert body == feed.comments.bodies[0]


async def test_new_rows_get_ids_past_the_imported_ones(postgres_url):
    async with connect(Database(postgres_url)) as connection:
        await import_feed(connection, tiny_feed(), ignore)
        user = await connection.fetchval("insert into animora_app.users default values returning id")
        post = await connection.fetchval(
            "insert into animora_app.posts (author_id) values ($1) returning id", user
        )
    assert (user, post) == (61, 151)


async def test_a_database_with_users_is_refused_and_left_unchanged(postgres_url):
    async with connect(Database(postgres_url)) as connection:
        await connection.execute("insert into animora_app.users (id) values (5)")
        for refused in (check_empty(connection), import_feed(connection, tiny_feed(), ignore)):
            with pytest.raises(DatabaseError, match=r"has users already: .*--replace"):
                await refused
        assert await connection.fetchval("select count(*) from animora_app.users") == 1


async def test_replace_deletes_all_previous_rows(postgres_url, tmp_path):
    async with connect(Database(postgres_url)) as connection:
        await import_feed(connection, tiny_feed(seed=1), ignore)
        await replace_feed(connection, tiny_feed(seed=2), ignore)
        read = await read_dataset(connection, tmp_path, ignore)
    np.testing.assert_array_equal(read.events.posts, as_dataset(tiny_feed(seed=2)).events.posts)


async def test_an_import_that_fails_changes_nothing(postgres_url):
    feed = tiny_feed()
    broken = replace(feed, likes=replace(feed.likes, posts=feed.likes.posts + 10_000))
    async with connect(Database(postgres_url)) as connection:
        await import_feed(connection, feed, ignore)
    with pytest.raises(DatabaseError, match="foreign key"):
        async with connect(Database(postgres_url)) as connection:
            await replace_feed(connection, broken, ignore)
    async with connect(Database(postgres_url)) as connection:
        assert await connection.fetchval("select count(*) from animora_app.likes") == len(feed.likes.users)


async def test_progress_is_reported_by_table(postgres_url):
    reported: dict[str, int] = {}

    def on_written(table, written, total):
        assert reported.get(table, 0) <= written <= total
        reported[table] = written

    feed = tiny_feed()
    async with connect(Database(postgres_url)) as connection:
        await import_feed(connection, feed, on_written)
    assert reported == {
        "users": 60,
        "posts": 150,
        "likes": len(feed.likes.users),
        "comments": len(feed.comments.users),
        "block_relations": len(feed.blocks.blockers),
    }
