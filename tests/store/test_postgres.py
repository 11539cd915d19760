from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from animora_database.copy_format import unix_seconds
from animora_database.views import INTERACTION_KINDS
from animora_demo.embedded import apply_schema
from animora_server.catalog import NEVER
from animora_server.errors import ConfigurationError, StoreError
from animora_server.settings import DatabaseSettings
from animora_server.store import PostgresStore
from tests.support.embeddings import values

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def store_at(url, **options):
    return PostgresStore(DatabaseSettings(url=SecretStr(url), **options))


async def read(store):
    async with store.reading() as reading:
        await reading.blocks()


async def embeddings_of(reading, *ids):
    """Images and captions by id, as lists."""
    found = {}

    def take(batch):
        for post_id, *both in zip(
            batch.ids.tolist(), values(batch.images), values(batch.captions), strict=True
        ):
            found[post_id] = both

    if ids:
        await reading.embeddings_of(np.array(ids, np.int64), take)
    else:
        await reading.embeddings(take)
    return found


async def test_the_time_of_a_reading_is_that_of_its_first_query(database, store):
    # What is committed between the two is read, and must not seem to have been there before.
    async with store.reading() as reading:
        (began,) = await database.fetchrow(
            "select xact_start from pg_stat_activity"
            " where datname = current_database() and state = 'idle in transaction'"
        )

    assert reading.now > began


async def test_posts_are_read_in_order_with_times_and_flags(database, store):
    await database.executemany(
        "insert into animora_app.posts (id, author_id, created_at, updated_at, deleted_at)"
        " values ($1, $2, $3, $4, $5)",
        [(2, 1, NOW, None, NOW), (-(2**63), 3, NOW - timedelta(seconds=0.5), NOW, None)],
    )

    async with store.reading() as reading:
        posts = await reading.posts()

    assert posts.ids.tolist() == [-(2**63), 2]
    assert posts.author_ids.tolist() == [3, 1]
    assert posts.created_at.tolist() == [NOW.timestamp() - 0.5, NOW.timestamp()]
    assert posts.updated_at[0] != NEVER
    assert posts.updated_at[1] == NEVER
    assert posts.deleted.tolist() == [False, True]


@pytest.mark.parametrize("column", ["created_at", "updated_at", "deleted_at"])
async def test_posts_are_found_by_any_time_of_change(database, store, column):
    await database.execute(
        "insert into animora_app.posts (id, author_id, created_at) values (1, 1, $1), (2, 1, $1)",
        NOW - timedelta(days=365),
    )
    await database.execute("alter table animora_app.posts disable trigger touch_post")
    await database.execute(f"update animora_app.posts set {column} = $1 where id = 2", NOW)

    async with store.reading() as reading:
        assert (await reading.posts_since(NOW)).ids.tolist() == [2]
        assert (await reading.posts_since(NOW + timedelta(seconds=1))).ids.tolist() == []


async def test_embeddings_are_read_for_all_posts_or_by_id(database, store):
    await database.executemany(
        "insert into animora_app.posts (id, author_id, image_embedding, caption_embedding)"
        " values ($1, 1, $2, $3)",
        [(1, [0.5, -2.0], None), (2, None, None), (3, [1.0, 2.0], [3.0])],
    )

    async with store.reading() as reading:
        every = await embeddings_of(reading)
        some = await embeddings_of(reading, 1, 3, 99)

    assert every == {1: [[0.5, -2.0], None], 2: [None, None], 3: [[1.0, 2.0], [3.0]]}
    assert some == {1: every[1], 3: every[3]}


@pytest.mark.parametrize("column_type", ["vector(2)", "halfvec(2)", "double precision[]"])
async def test_embeddings_may_be_of_other_types(database, store, column_type):
    if "vec" in column_type:
        await database.execute("create extension vector")
    await database.execute("drop view animora.posts")
    await database.execute(
        f"""create view animora.posts as
        select id, author_id, created_at, updated_at, deleted_at, caption_embedding,
               image_embedding::{column_type} as image_embedding
        from animora_app.posts"""
    )
    await database.execute(
        "insert into animora_app.posts (id, author_id, image_embedding, caption_embedding)"
        " values (1, 1, array[0.5, -2], array[3, 4]), (2, 1, null, null)"
    )

    async with store.reading() as reading:
        assert await embeddings_of(reading) == {1: [[0.5, -2.0], [3.0, 4.0]], 2: [None, None]}


async def test_embeddings_that_were_filled_in_are_found(database, store):
    await database.executemany(
        "insert into animora_app.posts (id, author_id, image_embedding, caption_embedding)"
        " values ($1, 1, $2, $3)",
        [(1, [1.0], None), (2, None, [1.0]), (3, [1.0], [1.0])],
    )

    async with store.reading() as reading:
        found = await reading.filled(no_image=np.array([1, 2]), no_caption=np.array([1, 2]))
        none = await reading.filled(no_image=np.array([2]), no_caption=np.array([1]))

    assert found.tolist() == [1, 2]
    assert none.tolist() == []


async def test_interactions_are_likes_and_comments_by_time(database, store):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1), (2, 1)")
    await database.executemany(
        "insert into animora_app.likes values ($1, $2, $3)",
        [(1, 1, NOW), (2, 1, NOW - timedelta(days=1)), (1, 2, NOW - timedelta(days=2))],
    )
    await database.execute(
        "insert into animora_app.comments (user_id, post_id, created_at) values (2, 1, $1)",
        NOW - timedelta(days=1),
    )

    async with store.reading() as reading:
        counts = await reading.interaction_counts(until=NOW)
        since = await reading.interactions(NOW, history=0)
        between = await reading.interactions(NOW - timedelta(days=1), NOW, history=0)

    assert counts.find(np.array([1, 2, 3])).tolist() == [2, 1, -1]
    assert list(zip(since.user_ids, since.post_ids, strict=True)) == [(1, 1)]
    assert list(zip(between.user_ids, between.post_ids, strict=True)) == [(2, 1), (2, 1)]


async def test_kinds_and_times_are_read_for_histories_alone(database, store):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    await database.execute("insert into animora_app.likes values (2, 1, $1)", NOW)
    await database.execute(
        "insert into animora_app.comments (user_id, post_id, created_at) values (2, 1, $1)", NOW
    )

    async with store.reading() as reading:
        found = await reading.interactions(NOW, history=5)
        pairs = await reading.interactions(NOW, history=0)
        later = NOW + timedelta(seconds=1)
        _, histories = await reading.seen_posts(NOW, later, history=5)
        _, nothing = await reading.seen_posts(NOW, later, history=0)

    assert sorted(found.kinds.tolist()) == [0, 1]
    assert unix_seconds(found.times).tolist() == [NOW.timestamp()] * 2
    assert (len(pairs), len(pairs.kinds), len(pairs.times)) == (2, 0, 0)
    assert (histories.kinds.tolist(), len(nothing.kinds)) == ([0, 1], 0)


@pytest.mark.parametrize("kind_type", ["varchar(20)", "char(20)", "name", "animora_app.reaction"])
async def test_kinds_of_any_text_type_are_read(database, store, kind_type):
    await database.execute("create type animora_app.reaction as enum ('share', 'comment', 'like')")
    await database.execute(
        "drop view animora.interactions; create view animora.interactions as"
        f" select 1 as user_id, number as post_id, kind::{kind_type} as kind, now() as created_at"
        " from (values (1, 'like'), (2, 'comment'), (3, 'share')) as row (number, kind)"
    )

    async with store.reading() as reading:
        found = await reading.interactions(NOW - timedelta(days=36_500), history=5)

    kinds = dict(zip(found.post_ids.tolist(), found.kinds.tolist(), strict=True))
    assert kinds == {1: INTERACTION_KINDS.index("like"), 2: INTERACTION_KINDS.index("comment")}


async def test_a_reading_is_consistent(database, store):
    async with store.reading() as reading:
        assert len(await reading.posts()) == 0
        await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
        await database.execute("insert into animora_app.block_relations values (1, 2)")
        assert await embeddings_of(reading) == {}
        assert len((await reading.blocks()).first) == 0

    async with store.reading() as reading:
        assert (await reading.blocks()).second.tolist() == [2]


async def test_rows_without_required_columns_are_skipped(database, store):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1), (2, 1)")
    await database.execute(
        "create or replace view animora.posts as"
        " select id, nullif(id, 2) as author_id, created_at, updated_at, deleted_at,"
        " image_embedding, caption_embedding from animora_app.posts"
    )

    async with store.reading() as reading:
        assert (await reading.posts()).ids.tolist() == [1]


async def test_a_large_load_arrives_in_parts(database, store):
    await database.execute(
        "insert into animora_app.posts (id, author_id, image_embedding)"
        " select id, 1, array_fill(id::real, array[1000]) from generate_series(1, 1500) as id"
    )
    sizes = []
    found: list[float] = []

    def take(batch):
        sizes.append(len(batch.ids))
        found.extend(batch.images.blocks[1000][:, -1].tolist())

    async with store.reading() as reading:
        await reading.embeddings(take)

    assert len(sizes) > 1
    assert found == list(range(1, 1501))


@pytest.mark.failure(24)
async def test_a_changed_view_is_a_store_error_and_the_next_reading_sees_the_change(database, store):
    await read(store)
    await database.execute("alter view animora.blocks rename to blocks_before")
    with pytest.raises(StoreError, match="blocks"):
        await read(store)

    await database.execute("alter view animora.blocks_before rename to blocks")

    await read(store)


async def test_an_unreachable_server_is_a_store_error(tmp_path):
    with pytest.raises(StoreError):
        await read(store_at(f"postgresql://animora@/animora?host={tmp_path}&sslmode=disable"))


async def test_errors_of_postgresql_are_named_as_such(tmp_path):
    with pytest.raises(StoreError, match=r"^PostgreSQL: FileNotFoundError"):
        await read(store_at(f"postgresql://animora@/animora?host={tmp_path}&sslmode=disable"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://animora@nowhere:hunter2/animora", "not a DSN, such as postgresql://"),
        ("postgresql://animora:hunter2/@nowhere:5432/animora", "not a DSN, such as postgresql://"),
        ("mysql://animora:hunter2@nowhere/animora", "mysql"),
        ("postgresql://animora:hunter2@nowhere/animora?sslmode=perhaps", "sslmode"),
    ],
)
async def test_an_invalid_url_is_reported_without_its_password(url, said):
    with pytest.raises(ConfigurationError, match=rf"^database\.url: .*{said}") as caught:
        await read(store_at(url))

    assert "hunter2" not in str(caught.value)


async def test_connection_string_options_without_effect_are_logged_once(database, postgres_url):
    with capture_logs() as logs:
        store = store_at(f"{postgres_url}&keepalives=1&channel_binding=prefer")
        for _ in range(2):
            await read(store)
        store.close()

    assert [(entry["option"], entry["without_effect"]) for entry in logs] == [
        ("database.url", "keepalives, channel_binding")
    ]


@pytest.mark.parametrize(("mode", "size"), [("transaction", 1), ("transaction", 3), ("session", 3)])
async def test_readings_work_through_a_pooler(database, postgres_url, pooled, mode, size):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    pooler = await pooled(mode, size)
    store = store_at(pooler.url(postgres_url))
    others = [store.with_separate_connection() for _ in range(size - 1)]
    for _ in range(3):
        async with AsyncExitStack() as stack:
            # With readings on all of its connections, so that each gets another one.
            readings = [await stack.enter_async_context(one.reading()) for one in (store, *others)]
            for reading in readings:
                assert (await reading.posts()).ids.tolist() == [1]
                assert (await reading.posts_of(np.array([1, 2]))).ids.tolist() == [1]
                await embeddings_of(reading, 1)
    for one in (store, *others):
        one.close()


async def test_a_lost_connection_is_replaced(database, store):
    await read(store)
    await database.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )

    with suppress(StoreError):  # the end may be noticed before the connection is used, or by using it
        await read(store)
    await read(store)


async def test_a_frozen_server_is_a_store_error_and_closing_does_not_wait(embedded_postgres, frozen):
    postgres = await embedded_postgres()
    await apply_schema(postgres.url)
    store = store_at(postgres.url, timeout=1, command_timeout=1)
    await read(store)

    with frozen(postgres.pid):
        for _ in range(2):  # on the old connection, then making a new one
            with pytest.raises(StoreError, match="in time"):
                await read(store)
        store.close()

    await read(store)
    store.close()


async def test_a_silent_query_is_a_store_error(database, postgres_url):
    await database.execute("insert into animora_app.block_relations values (1, 2)")
    await database.execute(
        "create or replace view animora.blocks as select blocker_id, blocked_id, created_at"
        " from animora_app.block_relations where pg_sleep(60) is not null"
    )

    with pytest.raises(StoreError, match="in time"):
        await read(store_at(postgres_url, command_timeout=1))
