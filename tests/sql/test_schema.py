from datetime import UTC, datetime

import asyncpg
import pytest

from animora_demo.embedded import apply_schema
from animora_server.errors import StoreError

VIEWS = {
    "users": {"id": "bigint"},
    "posts": {
        "id": "bigint",
        "author_id": "bigint",
        "created_at": "timestamp with time zone",
        "updated_at": "timestamp with time zone",
        "deleted_at": "timestamp with time zone",
        "image_embedding": "real[]",
        "caption_embedding": "real[]",
    },
    "interactions": {
        "user_id": "bigint",
        "post_id": "bigint",
        "kind": "text",
        "created_at": "timestamp with time zone",
    },
    "blocks": {"blocker_id": "bigint", "blocked_id": "bigint", "created_at": "timestamp with time zone"},
}


async def columns_of_views(connection):
    rows = await connection.fetch("""
        select relname, attname, format_type(atttypid, atttypmod) as type
        from pg_attribute join pg_class on pg_class.oid = attrelid
        where relnamespace = 'animora'::regnamespace and relkind = 'v'
        order by relname, attnum
    """)
    views: dict[str, dict[str, str]] = {}
    for row in rows:
        views.setdefault(row["relname"], {})[row["attname"]] = row["type"]
    return views


@pytest.fixture
async def posted(database):
    """Users 0 to 3, and post 10 by user 0."""
    await database.execute("insert into animora_app.users select generate_series(0, 3)")
    await database.execute("insert into animora_app.posts (id, author_id) values (10, 0)")
    return database


async def updated_at(connection):
    return await connection.fetchval("select updated_at from animora.posts where id = 10")


async def test_the_views_are_the_contract(database):
    assert await columns_of_views(database) == VIEWS


async def test_applying_again_changes_nothing(posted, postgres_url):
    await apply_schema(postgres_url)
    assert await columns_of_views(posted) == VIEWS
    assert await posted.fetchval("select array_agg(id) from animora.posts") == [10]


async def test_a_database_that_cannot_be_reached_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="cannot apply the schema"):
        await apply_schema(f"postgresql://animora@/none?host={tmp_path}&sslmode=disable")


async def test_likes_and_each_comment_are_interactions_and_an_unlike_takes_its_row_away(posted):
    await posted.execute(
        "insert into animora_app.likes values (1, 10, '2024-01-01Z'), (2, 10, '2024-01-02Z')"
    )
    await posted.execute("""
        insert into animora_app.comments (user_id, post_id, body, created_at)
        values (1, 10, 'aww', '2024-01-03Z'), (1, 10, 'so cute', '2024-01-04Z')
    """)
    await posted.execute("delete from animora_app.likes where user_id = 2")
    rows = await posted.fetch("select * from animora.interactions order by created_at")
    assert [tuple(row) for row in rows] == [
        (1, 10, "like", datetime(2024, 1, 1, tzinfo=UTC)),
        (1, 10, "comment", datetime(2024, 1, 3, tzinfo=UTC)),
        (1, 10, "comment", datetime(2024, 1, 4, tzinfo=UTC)),
    ]


async def test_a_user_likes_a_post_once(posted):
    await posted.execute("insert into animora_app.likes values (1, 10)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await posted.execute("insert into animora_app.likes values (1, 10)")


async def test_blocks_have_blocker_and_blocked_user(posted):
    await posted.execute("insert into animora_app.block_relations values (1, 2, '2024-01-01Z')")
    assert tuple(await posted.fetchrow("select * from animora.blocks")) == (
        1,
        2,
        datetime(2024, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    "change",
    [
        "image_embedding = '{1, 2}'",
        "caption_embedding = '{1, 2}'",
        "author_id = 1",
        "deleted_at = now()",
        "created_at = '2024-01-01Z'",
    ],
)
async def test_a_change_that_the_view_shows_sets_updated_at(posted, change):
    assert await updated_at(posted) is None
    await posted.execute(f"update animora_app.posts set {change} where id = 10")
    assert await updated_at(posted) is not None


async def test_a_change_that_the_view_does_not_show_leaves_updated_at_alone(posted):
    await posted.execute("update animora_app.posts set caption = 'my cat', author_id = 0 where id = 10")
    assert await updated_at(posted) is None


async def test_deleting_a_user_deletes_everything_of_theirs(posted):
    await posted.execute("insert into animora_app.likes values (1, 10)")
    await posted.execute("insert into animora_app.block_relations values (1, 0)")
    await posted.execute("delete from animora_app.users where id = 0")
    for view in ("posts", "interactions", "blocks"):
        assert await posted.fetchval(f"select count(*) from animora.{view}") == 0


async def test_the_queries_of_a_poll_use_indexes(database):
    await database.execute("set enable_seqscan = off")  # the tables are empty, where an index never pays
    for view, column, indexes in (
        ("interactions", "created_at", ("likes_created_at", "comments_created_at")),
        ("posts", "created_at", ("posts_created_at",)),
        ("posts", "updated_at", ("posts_updated_at",)),
        ("posts", "deleted_at", ("posts_deleted_at",)),
    ):
        query = f"explain select * from animora.{view} where {column} >= now() - interval '10 min'"
        plan = "\n".join(row[0] for row in await database.fetch(query))
        assert all(index in plan for index in indexes), plan
