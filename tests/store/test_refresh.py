"""After any changes of the database, the refreshed catalog equals a fresh load."""

import random
import threading
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import ClassVar

import asyncpg
import numpy as np
import pytest

from animora_server.catalog import PostRecords, WidthPreference, Widths
from animora_server.store.refresh import Refresh
from tests.store.contents import USERS, content
from tests.store.follower import SETTINGS, Follower, fresh_content

NO_IDS = np.empty(0, np.int64)


class WatchedRecords(PostRecords):
    """Records that remember the threads in which they were merged."""

    threads: ClassVar[list[threading.Thread]] = []

    def merged(self, others):
        self.threads.append(threading.current_thread())
        return watched(super().merged(others))


def watched(records):
    return WatchedRecords(
        records.ids, records.author_ids, records.created_at, records.updated_at, records.deleted
    )


class WatchedReading:
    """A reading that returns watched records and delegates all else."""

    def __init__(self, reading):
        self._reading = reading

    def __getattr__(self, name):
        return getattr(self._reading, name)

    async def posts_since(self, moment):
        return watched(await self._reading.posts_since(moment))


@pytest.fixture
async def follower(database, store):
    follower = Follower(store)
    await follower.reconcile()
    return follower


async def fresh_posts(store):
    async with store.reading() as reading:
        return await reading.posts()


def rows(snapshot):
    """What rows must keep for as long as their epoch lasts."""
    image, caption = snapshot.embeddings.read(0, len(snapshot))
    return np.hstack((snapshot.post_ids[:, None], snapshot.author_ids[:, None], image, caption))


class Application:
    """Does what an application does, at random; some of it commits late, with the time at which it began."""

    ACTIONS = (
        ("insert into animora_app.posts (author_id, created_at, image_embedding, caption_embedding)"
         " values ({user}, now() - {age}, {embedding}, {embedding})"),
        "update animora_app.posts set deleted_at = now() where id = {post}",
        "update animora_app.posts set deleted_at = null where id = {post}",
        "delete from animora_app.posts where id = {post}",
        "update animora_app.posts set image_embedding = {embedding} where id = {post}",
        "update animora_app.posts set author_id = {user} where id = {post}",
        "update animora_app.posts set caption = 'another' where id = {post}",
        "update animora_app.posts set created_at = now() - {age} where id = {post}",
        # Another post with the same id.
        ("with gone as (delete from animora_app.posts where id = {post} returning id)"
         " insert into animora_app.posts (id, author_id, created_at, image_embedding)"
         " select id, {user}, now() - {age}, {embedding} from gone"),
        # Changes without a timestamp.
        ("begin; alter table animora_app.posts disable trigger touch_post;"
         " update animora_app.posts set {column} = {embedding} where id = {post};"
         " alter table animora_app.posts enable trigger touch_post; commit"),
        "truncate animora_app.posts restart identity cascade",
        ("insert into animora_app.likes select {user}, id, now() - {age} from animora_app.posts"
         " where id = {post} on conflict do nothing"),
        "delete from animora_app.likes where user_id = {user} or post_id = {post}",
        ("insert into animora_app.comments (user_id, post_id, created_at)"
         " select {user}, id, now() - {age} from animora_app.posts where id % 5 = {post} % 5"),
        "delete from animora_app.comments where user_id = {user}",
        ("insert into animora_app.block_relations select {user}, {other} where {user} <> {other}"
         " on conflict do nothing"),
        "delete from animora_app.block_relations where blocker_id = {user} or blocked_id = {other}",
    )  # fmt: skip
    AGES = ("0 seconds", "5 minutes", "1 hour", "40 days", "400 days")

    def __init__(self, seed, database, late):
        self._random = random.Random(seed)
        self._database = database
        self._late = late
        self._transaction = None

    async def act(self):
        for _ in range(self._random.randrange(1, 12)):
            action = self._random.choice(self.ACTIONS)
            if self._transaction is None or not action.startswith(("begin", "truncate")):  # which would wait
                await self._database.execute(self._statement(action))
        if self._transaction is None:
            self._transaction = self._late.transaction()
            await self._transaction.start()
            await self._late.execute(self._statement(self.ACTIONS[0]))
        elif self._random.random() < 0.5:
            await self._transaction.commit()
            self._transaction = None

    def _statement(self, action):
        pick = self._random
        embedding = pick.choice(
            (
                "null",
                "null",
                "array[1, 2]",
                "array['nan'::real, 1, 2]",
                *[f"array[{pick.randrange(4)}, 1, {pick.randrange(2)}]"] * 6,
            )
        )
        return action.format(
            user=pick.randint(1, USERS),
            other=pick.randint(1, USERS),
            post=pick.randint(1, 40),
            age=f"interval '{pick.choice(self.AGES)}'",
            embedding=embedding,
            column=pick.choice(("image_embedding", "caption_embedding")),
        )


@pytest.mark.parametrize("seed", range(6))
async def test_after_a_reconcile_the_catalog_equals_a_fresh_load(database, postgres_url, store, seed):
    async with AsyncExitStack() as stack:
        late = await asyncpg.connect(postgres_url)
        stack.push_async_callback(late.close)
        application = Application(seed, database, late)
        follower = Follower(store)
        choice = random.Random(seed)
        await follower.reconcile()
        for _ in range(25):
            before = follower.snapshot
            await application.act()
            if choice.random() < 0.6:
                await follower.poll()
            else:
                await follower.reconcile()
                assert content(follower.snapshot) == await fresh_content(store)
            if follower.snapshot.epoch == before.epoch:
                assert np.array_equal(rows(follower.snapshot)[: len(before)], rows(before))


async def test_a_poll_finds_recent_changes(database, store, follower):
    await database.execute(
        "insert into animora_app.posts (id, author_id) select n, n from generate_series(1, 9) as n"
    )
    await database.execute("insert into animora_app.likes values (1, 2), (2, 2), (3, 3)")
    await database.execute("insert into animora_app.block_relations values (1, 2), (3, 4)")
    await follower.poll()
    await database.execute("update animora_app.posts set deleted_at = now() where id = 1")
    await database.execute("update animora_app.posts set author_id = 9, image_embedding = '{1}' where id = 2")
    await database.execute("delete from animora_app.likes where user_id = 1")
    await database.execute("delete from animora_app.block_relations where blocker_id = 1")

    await follower.poll()

    assert content(follower.snapshot) == await fresh_content(store)


async def test_a_poll_finds_late_commits(database, postgres_url, follower):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    late = await asyncpg.connect(postgres_url)
    async with late.transaction():
        await late.execute("insert into animora_app.posts (id, author_id) values (2, 1)")
        await late.execute("insert into animora_app.likes values (1, 1), (1, 2)")
        await follower.poll()
        assert len(follower.snapshot) == 1
    await late.close()

    await follower.poll()

    assert follower.snapshot.rows(np.array([1, 2])).tolist() == [0, 1]
    assert follower.snapshot.interactions.tolist() == [1, 1]
    assert follower.snapshot.seen_posts(1).tolist() == [1, 2]


async def test_a_hard_delete_is_found_by_a_reconcile_and_not_by_a_poll(database, follower):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    await follower.poll()
    await database.execute("delete from animora_app.posts")

    await follower.poll()
    assert follower.snapshot.rows(np.array([1])).tolist() == [0]

    await follower.reconcile()
    assert follower.snapshot.rows(np.array([1])).tolist() == [-1]


async def test_a_poll_applies_a_notified_hard_delete(database, store, follower):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1), (2, 1)")
    await follower.poll()
    await database.execute("delete from animora_app.posts where id = 1")

    await follower.poll(np.array([1, 99]))

    assert content(follower.snapshot) == await fresh_content(store)


async def test_a_poll_merges_records_in_worker_threads(database, store, follower):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1), (2, 1)")
    async with store.reading() as reading:
        refresh = Refresh(WatchedReading(reading), follower.catalog, SETTINGS, time.monotonic())
        await refresh.poll(reading.now, np.array([2]))

    assert WatchedRecords.threads
    assert threading.main_thread() not in WatchedRecords.threads


async def test_a_poll_ignores_a_notified_deletion_of_a_post_that_exists(database, store, follower):
    await database.execute(
        "insert into animora_app.posts (id, author_id, created_at)"
        " values (1, 1, now() - interval '1 year'), (2, 1, now() - interval '1 year')"
    )
    await follower.reconcile()
    await database.execute("alter table animora_app.posts disable trigger touch_post")
    await database.execute("update animora_app.posts set deleted_at = now() - interval '1 year' where id = 2")

    await follower.poll(np.array([1, 2]))

    assert content(follower.snapshot) == await fresh_content(store)


async def test_a_removed_old_like_is_found_by_a_reconcile(database, follower):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    await database.execute("insert into animora_app.likes values (1, 1, now() - interval '1 day')")
    await follower.reconcile()
    await database.execute("delete from animora_app.likes")

    await follower.reconcile()

    assert follower.snapshot.interactions.tolist() == [0]
    assert follower.snapshot.seen_posts(1).tolist() == []


async def test_likes_before_the_seen_window_are_counted_but_not_seen(database, follower):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    await database.execute("insert into animora_app.likes values (1, 1, now() - interval '400 days')")

    await follower.reconcile()

    assert follower.snapshot.interactions.tolist() == [1]
    assert follower.snapshot.seen_posts(1).tolist() == []


@pytest.mark.parametrize("age", ["1 hour", "20 hours"])
async def test_embeddings_added_without_an_edit_are_found_for_a_day(database, store, follower, age):
    await database.execute("alter table animora_app.posts disable trigger touch_post")
    await database.execute(
        f"insert into animora_app.posts (id, author_id, created_at) values (1, 1, now() - interval '{age}')"
    )
    await follower.reconcile()
    await database.execute("update animora_app.posts set caption_embedding = '{2, 3}'")

    await follower.poll()

    assert content(follower.snapshot) == await fresh_content(store)
    assert follower.snapshot.has_embeddings(follower.snapshot.rows(np.array([1]))).tolist() == [True]


@pytest.mark.parametrize("notified", [NO_IDS, np.array([1])])
async def test_a_filled_post_that_lost_its_author_changes_no_other_post(database, store, follower, notified):
    await database.execute("alter table animora_app.posts disable trigger touch_post")
    await database.execute(
        "create or replace view animora.posts as"
        " select id, nullif(author_id, 20) as author_id, created_at, updated_at, deleted_at,"
        " image_embedding, caption_embedding from animora_app.posts"
    )
    await database.execute(
        "insert into animora_app.posts (id, author_id, created_at)"
        " values (1, 1, now() - interval '1 hour'), (2, 2, now() - interval '2 hours')"
    )
    await follower.reconcile()
    await database.execute(
        "update animora_app.posts set author_id = 20, caption_embedding = '{2, 3}' where id = 1"
    )

    await follower.poll(notified)

    snapshot = follower.snapshot
    rows = snapshot.rows(np.array([1, 2]))
    assert rows[1] != -1
    assert snapshot.created_at[rows[1]] == (await fresh_posts(store)).created_at[0]
    assert not snapshot.deleted[rows[1]]
    if len(notified):
        assert rows[0] == -1
    await follower.reconcile()
    assert content(follower.snapshot) == await fresh_content(store)


EMBEDDED = """
insert into animora_app.posts (id, author_id, image_embedding)
select id, 1, array_fill(id::real, array[case when id <= {odd} then 17 else 8 end])
from generate_series(1, {posts}) as id
"""


async def kept_images(follower):
    """By post, the first number of its image, 0 for none."""
    snapshot = follower.snapshot
    ids, rows = snapshot.index.ids, snapshot.index.values
    if not snapshot.embeddings.image_width:
        return dict.fromkeys(ids.tolist(), 0.0)
    return dict(zip(ids.tolist(), snapshot.embeddings.take(rows)[0][:, 0].tolist(), strict=True))


@pytest.mark.parametrize("odd", [1, 2])
async def test_the_most_frequent_width_is_kept_whatever_the_order_of_the_posts(database, store, odd):
    await database.execute(EMBEDDED.format(odd=odd, posts=5))
    follower = Follower(store)

    await follower.reconcile()

    assert follower.snapshot.embeddings.image_width == 8
    assert await kept_images(follower) == {post: 0 if post <= odd else post for post in range(1, 6)}
    assert follower.unusable == Widths(odd, 0)


async def test_the_width_of_the_first_part_is_not_decisive(database, store):
    await database.execute(  # larger than a part
        "insert into animora_app.posts (id, author_id, image_embedding)"
        " select id, 1, array_fill(1::real, array[case when id <= 600 then 2000 else 1999 end])"
        " from generate_series(1, 1500) as id"
    )
    follower = Follower(store)

    await follower.reconcile()

    assert follower.snapshot.embeddings.image_width == 1999
    assert list((await kept_images(follower)).values()) == [0] * 600 + [1] * 900
    assert content(follower.snapshot) == await fresh_content(store)


async def test_the_first_embedding_does_not_set_the_width_while_a_model_serves(database, store, follower):
    follower.preference = WidthPreference(serving=Widths(image=8))
    await database.execute(EMBEDDED.format(odd=1, posts=1))

    await follower.poll()

    assert follower.snapshot.embeddings.image_width == 8
    assert await kept_images(follower) == {1: 0}


async def test_all_posts_may_get_embeddings_of_another_width_while_serving(database, store):
    await database.execute(EMBEDDED.format(odd=0, posts=6))
    follower = Follower(store)
    follower.preference = WidthPreference(serving=Widths(image=8))
    await follower.reconcile()
    before = follower.snapshot

    widened = "update animora_app.posts set image_embedding = array_fill(id::real, array[16]) where id <= {}"
    await database.execute(widened.format(4))
    await follower.poll()
    await follower.reconcile()
    assert follower.snapshot.embeddings.image_width == 8
    assert await kept_images(follower) == {1: 0, 2: 0, 3: 0, 4: 0, 5: 5, 6: 6}

    await database.execute(widened.format(6))
    follower.preference = WidthPreference(serving=Widths(image=8), wanted=Widths(image=16))
    await follower.reconcile()
    assert follower.snapshot.embeddings.image_width == 16
    assert await kept_images(follower) == {post: post for post in range(1, 7)}
    assert follower.snapshot.epoch > before.epoch
    assert before.embeddings.read(0, 1)[0].shape == (1, 8)
    # Only the changed posts are newer.
    assert len(follower.snapshot.newer_than(before.read_at)) == 6  # each has a new row
    assert content(follower.snapshot) == await fresh_content(store)


@pytest.mark.parametrize("type_name", ["vector(8)", "halfvec(8)", "real[]", "double precision[]"])
async def test_the_type_of_embeddings_may_change_while_serving(database, store, type_name):
    await database.execute("create extension vector")
    await database.execute(EMBEDDED.format(odd=0, posts=3))
    follower = Follower(store)
    await follower.reconcile()
    definition = await database.fetchval("select pg_get_viewdef('animora.posts'::regclass)")
    await database.execute("drop trigger touch_post on animora_app.posts")
    for number, changed in enumerate((type_name, "halfvec(8)", type_name)):
        await database.execute(
            "begin; drop view animora.posts;"
            f" alter table animora_app.posts alter image_embedding type {changed}"
            f" using image_embedding::real[]::{changed};"
            f" create view animora.posts as {definition}; commit"
        )
        await database.execute(
            "insert into animora_app.posts (id, author_id, image_embedding)"
            f" values ({10 + number}, 1, array[1, 2, 3, 4, 5, 6, 7, 8]::real[]::{changed})"
        )
        await follower.poll()
        assert content(follower.snapshot) == await fresh_content(store)
    assert await kept_images(follower) == {1: 1, 2: 2, 3: 3, 10: 1, 11: 1, 12: 1}
    assert follower.unusable == Widths(0, 0)


async def test_a_reused_id_is_a_new_post(database, store, follower):
    insert = "insert into animora_app.posts (author_id, image_embedding) values (1, array[{}, 2])"
    await database.execute(insert.format(1))
    await follower.poll()
    await database.execute("truncate animora_app.posts restart identity cascade")
    await database.execute(insert.format(7))

    await follower.poll()

    assert await kept_images(follower) == {1: 7}
    assert content(follower.snapshot) == await fresh_content(store)


@pytest.mark.parametrize("made", ["1 minute", "2 days"])
async def test_a_post_that_became_visible_late_is_newer_than_older_timelines_even_after_a_restart(
    database, store, made
):
    await database.execute("alter table animora_app.posts add published bool default false")
    await database.execute(
        "create or replace view animora.posts as"
        " select id, author_id, created_at, updated_at, deleted_at, image_embedding, caption_embedding"
        " from animora_app.posts where published"
    )
    await database.execute(
        "insert into animora_app.posts (id, author_id, created_at, published)"
        f" select id, 1, now() - interval '{made}' - interval '2 minutes', id > 1"
        " from generate_series(1, 4) as id"
    )
    follower = Follower(store)
    await follower.reconcile()
    listed = follower.snapshot.read_at
    await database.execute("update animora_app.posts set published = true, updated_at = now() where id = 1")

    await follower.poll()
    assert follower.snapshot.post_ids[follower.snapshot.newer_than(listed)].tolist() == [1]
    restarted = Follower(store)
    await restarted.reconcile()
    assert restarted.snapshot.post_ids[restarted.snapshot.newer_than(listed)].tolist() == [1]


@pytest.mark.parametrize("change", ["deleted_at = null", "deleted_at = null, updated_at = null"])
@pytest.mark.parametrize("refresh", ["poll", "reconcile"])
async def test_a_restored_post_is_newer_than_timelines_made_while_it_was_deleted(
    database, follower, change, refresh
):
    await database.execute("alter table animora_app.posts disable trigger touch_post")
    await database.execute(
        "insert into animora_app.posts (id, author_id, created_at, deleted_at)"
        " values (1, 1, now() - interval '5 minutes', now()), (2, 1, now() - interval '5 minutes', null)"
    )
    await follower.reconcile()
    listed = follower.snapshot.read_at
    await database.execute(f"update animora_app.posts set {change} where id = 1")

    await getattr(follower, refresh)()

    assert follower.snapshot.post_ids[follower.snapshot.newer_than(listed)].tolist() == [1]


async def test_reconciles_reread_a_large_catalog_part_by_part(database, store):
    await database.execute(
        "insert into animora_app.posts (id, author_id, image_embedding)"
        " select id, 1, array_fill(1::real, array[2000]) from generate_series(1, 9000) as id"
    )
    follower = Follower(store)
    await follower.reconcile()
    await database.execute("alter table animora_app.posts disable trigger touch_post")
    await database.execute(
        "update animora_app.posts set image_embedding = array_fill(2::real, array[2000]) where id % 100 = 0"
    )
    seen = set()
    for _ in range(3):  # 9,000 posts of 8 KB, and 32 MB at a time
        await follower.reconcile()
        seen = {post for post, number in (await kept_images(follower)).items() if number == 2}
    assert seen == set(range(100, 9001, 100))


async def test_a_poll_without_changes_shares_everything_but_the_reading_times(database, follower):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    await follower.poll()
    before = follower.snapshot

    await follower.poll()

    assert follower.snapshot.blocks_read_at > before.blocks_read_at
    assert follower.snapshot.index is before.index
    assert follower.snapshot.post_ids is before.post_ids


class Ahead:
    """A store of a database whose clock is some time ahead."""

    def __init__(self, store, seconds):
        self._store = store
        self.ahead = timedelta(seconds=seconds)

    @asynccontextmanager
    async def reading(self):
        async with self._store.reading() as reading:
            reading.now += self.ahead
            yield reading


async def test_a_post_made_after_the_clock_stepped_back_is_found_by_the_next_poll(database, store):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    clock = Ahead(store, 3600)
    follower = Follower(clock)
    await follower.reconcile()
    read_at = follower.snapshot.read_at
    clock.ahead = timedelta()
    await database.execute("insert into animora_app.posts (id, author_id) values (2, 1)")
    await follower.poll()
    assert follower.snapshot.post_ids.tolist() == [1, 2]
    assert follower.snapshot.newer_than(read_at).tolist() == [1]
    assert follower.snapshot.has_changed_since(read_at)


async def test_interactions_must_be_counted_again_after_the_clock_stepped_back(database, store):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    clock = Ahead(store, 3600)
    follower = Follower(clock)
    await follower.reconcile()
    assert not follower.lacks_interactions
    clock.ahead = timedelta()
    await database.execute("insert into animora_app.likes values (2, 1, now())")
    await follower.poll()
    assert follower.lacks_interactions
    await follower.reconcile()
    assert not follower.lacks_interactions
    assert follower.snapshot.seen_posts(2).tolist() == [1]


async def test_a_small_step_back_of_the_clock_needs_no_count(database, store):
    clock = Ahead(store, 3600)
    follower = Follower(clock)
    await follower.reconcile()
    clock.ahead = timedelta(seconds=4000)
    await follower.poll()
    clock.ahead = timedelta(seconds=3700)
    await follower.poll()
    assert not follower.lacks_interactions
