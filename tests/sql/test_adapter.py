"""The adapter for the original application, over a database with its schema."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import numpy as np
import pytest

from animora_demo.embedded.schema import schema_files
from tests.support.until import HANG_TIMEOUT

ORIGINAL = """
create table users (id uuid primary key, index serial, name text);
create table posts (
    id uuid primary key, index serial, user_posts uuid references users,
    created_at timestamptz not null default now(), deleted_at timestamptz,
    image_feature text, text_feature text
);
create table likes (
    id uuid primary key default gen_random_uuid(), user_likes uuid references users,
    post_likes uuid references posts, created_at timestamptz not null default now()
);
create table comments (
    id uuid primary key default gen_random_uuid(), user_comments uuid references users,
    post_comments uuid references posts, created_at timestamptz not null default now()
);
create table block_relations (user_blocking uuid references users, user_blocked_by uuid references users);
"""
ANNA, BEN, CLEO = (UUID(int=number) for number in (1, 2, 3))
CAT, DOG = (UUID(int=number) for number in (11, 12))
DAY = datetime(2024, 1, 1, tzinfo=UTC)


def adapter():
    """The adapter, then the reader's grants on its views."""
    numbered = schema_files()
    directory = Path(numbered[0]).parent
    return (directory / "adapter_original.sql").read_text() + (directory / "030_reader.sql").read_text()


@pytest.fixture
async def original(empty_database):
    """Users 101, 102 and 103; post 201 by 101 and 202 by 102."""
    await empty_database.execute(ORIGINAL)
    await empty_database.executemany(
        "insert into users values ($1, $2)", [(ANNA, 101), (BEN, 102), (CLEO, 103)]
    )
    await empty_database.executemany(
        "insert into posts (id, index, user_posts, created_at) values ($1, $2, $3, $4)",
        [(CAT, 201, ANNA, DAY), (DOG, 202, BEN, DAY)],
    )
    await empty_database.execute(adapter())
    return empty_database


async def test_ids_are_the_integer_columns(original):
    assert [row["id"] for row in await original.fetch("select id from animora.users order by id")] == [
        101,
        102,
        103,
    ]
    rows = await original.fetch(
        "select id, author_id, created_at, updated_at, deleted_at from animora.posts order by id"
    )
    assert [tuple(row) for row in rows] == [(201, 101, DAY, None, None), (202, 102, DAY, None, None)]


async def test_a_deleted_post_has_its_deletion_time(original):
    await original.execute("update posts set deleted_at = $1 where id = $2", DAY, CAT)
    assert await original.fetchval("select deleted_at from animora.posts where id = 201") == DAY


async def test_likes_and_every_comment_are_interactions(original):
    await original.execute("insert into likes (user_likes, post_likes) values ($1, $2)", BEN, CAT)
    for _ in range(2):
        await original.execute(
            "insert into comments (user_comments, post_comments) values ($1, $2)", CLEO, DOG
        )
    rows = await original.fetch("select user_id, post_id, kind from animora.interactions order by user_id")
    assert [tuple(row) for row in rows] == [
        (102, 201, "like"),
        (103, 202, "comment"),
        (103, 202, "comment"),
    ]


async def test_rows_with_dangling_references_are_left_out(original):
    await original.execute(
        "insert into likes (user_likes, post_likes) values ($1, null), (null, $2)", BEN, CAT
    )
    await original.execute("insert into block_relations values ($1, null)", BEN)
    assert await original.fetch("select * from animora.interactions") == []
    assert await original.fetch("select * from animora.blocks") == []


async def test_rows_without_an_integer_id_are_left_out_and_not_notified(original, empty_postgres_url):
    await original.execute(
        "alter table users alter index drop not null; alter table posts alter index drop not null"
    )
    nobody, nothing = UUID(int=4), UUID(int=14)
    await original.execute("insert into users values ($1, null)", nobody)
    await original.execute("insert into posts (id, index, user_posts) values ($1, null, $2)", nothing, ANNA)
    await original.execute(
        "insert into posts (id, index, user_posts) values ($1, 7, $2)", UUID(int=15), nobody
    )
    for table in ("likes (user_likes, post_likes)", "comments (user_comments, post_comments)"):
        await original.execute(f"insert into {table} values ($1, $2), ($3, $4)", nobody, CAT, ANNA, nothing)
    assert await original.fetchval("select count(*) from animora.interactions") == 0
    connection = await asyncpg.connect(empty_postgres_url)
    heard: asyncio.Queue[str] = asyncio.Queue()
    await connection.add_listener("animora", lambda *message: heard.put_nowait(message[-1]))
    await original.execute("insert into block_relations values ($1, $2), ($2, $1)", nobody, ANNA)
    assert await original.fetchval("select count(*) from animora.blocks") == 0
    await original.execute("delete from block_relations")
    await original.execute("update posts set deleted_at = now() where id = $1", nothing)
    await original.execute("update posts set deleted_at = null where id = $1", nothing)
    await original.execute("delete from likes; delete from comments")
    await original.execute("delete from posts where id = $1", nothing)
    await original.execute("notify animora, 'the end'")

    assert [row["id"] for row in await original.fetch("select id from animora.users order by 1")] == [
        101,
        102,
        103,
    ]
    assert [row["id"] for row in await original.fetch("select id from animora.posts order by 1")] == [
        201,
        202,
    ]
    async with asyncio.timeout(HANG_TIMEOUT):
        assert await heard.get() == "the end"
    await connection.close()


async def test_times_without_a_zone_are_utc_in_any_session_time_zone(empty_database):
    await empty_database.execute(ORIGINAL.replace("timestamptz", "timestamp"))
    await empty_database.execute(adapter())
    await empty_database.execute("insert into users values ($1, 101)", ANNA)
    await empty_database.execute(
        "insert into posts (id, index, user_posts, created_at) values ($1, 201, $2, '2024-01-01')", CAT, ANNA
    )
    await empty_database.execute("set timezone = 'Asia/Kolkata'")
    assert await empty_database.fetchval("select created_at from animora.posts") == DAY


async def test_blocks_get_a_time_though_the_source_table_has_none(original):
    await original.execute("insert into block_relations values ($1, $2)", ANNA, BEN)
    row = await original.fetchrow("select * from animora.blocks")
    assert tuple(row) == (101, 102, datetime(1970, 1, 1, tzinfo=UTC))


async def test_features_are_read_without_loss(original):
    vector = np.random.default_rng(0).standard_normal(768).astype(np.float32)
    feature = json.dumps([float(value) for value in vector])
    await original.execute("update posts set image_feature = $1 where id = $2", feature, CAT)
    found = await original.fetchval("select image_embedding from animora.posts where id = 201")
    np.testing.assert_array_equal(np.array(found, np.float32), vector)


async def test_a_feature_that_is_not_768_numbers_is_an_absent_embedding(original):
    features = [
        None,
        "",
        "null",
        "{}",
        "[]",
        "not json",
        "[0.5, 0.5",
        json.dumps([0.5] * 767),
        json.dumps([0.5] * 769),
        json.dumps([[0.5] * 768]),
        json.dumps([[0.5] * 384] * 2),
        json.dumps([None] + [0.5] * 767),
        json.dumps([float("nan")] + [0.5] * 767),
        json.dumps([float("-inf")] + [0.5] * 767),
        json.dumps([1e300] + [0.5] * 767),
        json.dumps(["cat"] + [0.5] * 767),
    ]
    await original.executemany(
        "insert into posts (id, index, user_posts, text_feature) values (gen_random_uuid(), $1, $2, $3)",
        [(1000 + number, ANNA, feature) for number, feature in enumerate(features)],
    )
    rows = await original.fetch(
        "select id, caption_embedding from animora.posts where id >= 1000 order by id"
    )
    assert [row["caption_embedding"] for row in rows] == [None] * len(features)


async def test_features_of_type_json_are_read(empty_database):
    await empty_database.execute(
        ORIGINAL.replace("image_feature text, text_feature text", "image_feature jsonb, text_feature json")
    )
    await empty_database.execute(adapter())


async def test_the_reader_reads_the_adapted_views_and_no_table(original):
    await original.execute("set role animora_reader")
    assert await original.fetchval("select count(*) from animora.posts") == 2
    assert not await original.fetchval("select has_table_privilege('public.posts', 'select')")


async def test_applying_it_again_changes_nothing(original):
    await original.execute(adapter())
    assert await original.fetchval("select count(*) from animora.users") == 3


@pytest.mark.parametrize(
    ("statements", "payloads"),
    [
        ("insert into block_relations values ('{anna}', '{ben}')", ["block 101 102"]),
        ("insert into block_relations values ('{anna}', null)", []),
        (
            "insert into block_relations values ('{anna}', '{ben}'); delete from block_relations",
            ["block 101 102", "unblock 101 102"],
        ),
        (
            "insert into block_relations values ('{anna}', '{ben}'), ('{anna}', '{ben}');"
            "delete from block_relations where ctid in (select ctid from block_relations limit 1)",
            ["block 101 102"],
        ),
        ("update posts set deleted_at = now() where id = '{cat}'", ["delete 201"]),
        ("update posts set user_posts = null where id = '{cat}'", ["delete 201"]),
        ("update posts set image_feature = '[]'", []),
        ("delete from posts where id = '{cat}'", ["delete 201"]),
        ("delete from posts", ["delete 201 202"]),
    ],
)
async def test_blocks_and_deletions_are_notified_by_the_integer_columns(
    original, empty_postgres_url, statements, payloads
):
    connection = await asyncpg.connect(empty_postgres_url)
    heard: asyncio.Queue[str] = asyncio.Queue()
    await connection.add_listener("animora", lambda *message: heard.put_nowait(message[-1]))
    await original.execute(statements.format(anna=ANNA, ben=BEN, cat=CAT))
    await original.execute("notify animora, 'the end'")
    for payload in [*payloads, "the end"]:
        async with asyncio.timeout(HANG_TIMEOUT):
            assert await heard.get() == payload
    await connection.close()
