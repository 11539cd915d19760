"""Databases of synthetic posts, generated inside PostgreSQL and kept for the next run."""

import asyncpg

from animora_demo.embedded import EmbeddedPostgres, apply_schema
from tests.benchmarks.growth.version import IMAGE, USERS

WIDTH = 768  # of the embeddings of a database that is to be loaded only

# Foreign keys and notifications of synthetic rows would take longer than the rows.
QUIETLY = "set session_replication_role = replica"
SERVED_POSTS = f"""
insert into animora_app.posts (id, author_id, created_at, image_embedding)
select id, 1 + id % {USERS}, now() - id * interval '1 minute',
       array[{", ".join(["random() - 0.5"] * IMAGE)}]::real[]
from generate_series(1, $1::int) as id
"""
LIKES = f"""
insert into animora_app.likes (user_id, post_id, created_at)
select 1 + id * 7 % {USERS}, id, now() - id * interval '1 minute'
from generate_series(1, $1::int) as id
"""
EMBEDDED_POSTS = """
insert into animora_app.posts (id, author_id, created_at, image_embedding, caption_embedding)
select id, 1, now() - id * interval '1 minute',
       array(select (random() - 0.5 + 0 * id)::real from generate_series(1, $2::int)),
       array(select (random() - 0.5 + 0 * id)::real from generate_series(1, $2::int))
from generate_series(1, $1::int) as id
"""
AS_PGVECTOR = """
create extension vector;
drop view animora.posts;
drop trigger touch_post on animora_app.posts;
alter table animora_app.posts
    alter image_embedding type {type}({width}), alter caption_embedding type {type}({width});
create view animora.posts as
select id, author_id, created_at, updated_at, deleted_at, image_embedding, caption_embedding
from animora_app.posts;
"""


async def served(postgres: EmbeddedPostgres, posts: int) -> str:
    """The DSN of a database of `posts` posts with narrow images, and a like for each."""
    name = f"served_{posts}"
    if await _is_new(postgres, name):
        connection = await _begin(postgres, name)
        await connection.execute(SERVED_POSTS, posts)
        await connection.execute(LIKES, posts)
        await _finish(postgres, connection, name)
    return postgres.database_url(name)


async def embedded(postgres: EmbeddedPostgres, posts: int, type_name: str) -> str:
    """The DSN of a database of `posts` posts with images and captions of WIDTH, of an SQL type."""
    name = f"embedded_{type_name}_{posts}"
    if await _is_new(postgres, name):
        connection = await _begin(postgres, name)
        if type_name != "real":
            await connection.execute(AS_PGVECTOR.format(type=type_name, width=WIDTH))
        await connection.execute(EMBEDDED_POSTS, posts, WIDTH)
        await _finish(postgres, connection, name)
    return postgres.database_url(name)


async def _is_new(postgres: EmbeddedPostgres, name: str) -> bool:
    connection = await asyncpg.connect(postgres.url)
    try:
        return not await connection.fetchval("select 1 from pg_database where datname = $1", name)
    finally:
        await connection.close()


async def _begin(postgres: EmbeddedPostgres, name: str) -> asyncpg.Connection:
    """A connection to a new database with schema and users; `_finish` gives the database its name."""
    connection = await asyncpg.connect(postgres.url)
    try:
        await connection.execute(f"drop database if exists {name}_unfinished")
        await connection.execute(f"create database {name}_unfinished")
    finally:
        await connection.close()
    url = postgres.database_url(f"{name}_unfinished")
    await apply_schema(url)
    connection = await asyncpg.connect(url)
    await connection.execute(QUIETLY)
    await connection.execute("insert into animora_app.users select generate_series(1, $1::int)", USERS)
    return connection


async def _finish(postgres: EmbeddedPostgres, connection: asyncpg.Connection, name: str) -> None:
    await connection.execute("vacuum analyze")
    await connection.close()
    connection = await asyncpg.connect(postgres.url)
    try:
        await connection.execute(f"alter database {name}_unfinished rename to {name}")
    finally:
        await connection.close()
