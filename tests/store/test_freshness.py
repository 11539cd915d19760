"""A worker's catalog after any order of commits, polls, notifications and losses of them."""

import asyncio
import time
from contextlib import AsyncExitStack

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from animora_server.catalog import Catalog
from animora_server.settings import CatalogSettings
from animora_server.store.refresh import Refresh
from tests.store.contents import content
from tests.store.workers import CatalogWorker, nothing
from tests.support.until import until

EXAMPLES = 15

BEGINNING = """
truncate animora_app.posts, animora_app.likes, animora_app.comments, animora_app.block_relations;
insert into animora_app.posts (id, author_id) select n, n % 3 + 1 from generate_series(1, 5) as n;
insert into animora_app.block_relations values (1, 2), (2, 1);
"""
AGES = ("0 s", "5 min", "40 days", "400 days")
STATEMENTS = (
    ("insert into animora_app.posts (id, author_id, created_at, image_embedding)"
     " values ({post}, {user}, now() - interval '{age}', '{{1, {user}}}') on conflict do nothing"),
    "update animora_app.posts set deleted_at = now() where id = {post}",
    "update animora_app.posts set deleted_at = null where id = {post}",
    "update animora_app.posts set author_id = {user} where id = {post}",
    "delete from animora_app.posts where id = {post}",
    "delete from animora_app.posts where id >= {post} and id < {first} + 5",
    ("insert into animora_app.likes select {user}, id, now() - interval '{age}' from animora_app.posts"
     " where id = {post} on conflict do nothing"),
    "delete from animora_app.likes where user_id = {user} and post_id >= {first}",
    ("insert into animora_app.comments (user_id, post_id, created_at)"
     " select {user}, id, now() - interval '{age}' from animora_app.posts where id = {post}"),
    ("insert into animora_app.block_relations values ({user}, {other}), ({other}, {user})"
     " on conflict do nothing"),
    "insert into animora_app.block_relations values ({user}, {other}) on conflict do nothing",
    "delete from animora_app.block_relations where blocker_id = {user}",
    "update animora_app.block_relations set created_at = now() where blocker_id = {user}",
)  # fmt: skip


@st.composite
def statements(draw, first_user=1, first_post=1):
    """Steps of an application with only five posts and three users, so that each is affected often."""
    user, step = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    return draw(st.sampled_from(STATEMENTS)).format(
        user=first_user + user,
        other=first_user + (user + step) % 3,
        post=first_post + draw(st.integers(0, 4)),
        first=first_post,
        age=draw(st.sampled_from(AGES)),
    )


several = st.lists(statements(), max_size=4)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("act"), statements()),
        st.tuples(st.just("act together"), several),
        st.tuples(st.just("begin late"), st.lists(statements(first_user=11, first_post=101), min_size=1)),
        st.tuples(st.just("commit late")),
        st.tuples(st.just("refresh"), several, several),
        st.tuples(st.just("refresh"), several, several),
        st.tuples(st.just("cut"), several),
        st.tuples(st.just("cut while refreshing"), several),
    ),
    min_size=5,
    max_size=20,
)


class World:
    """An application, a slower one, and a worker that follows both."""

    def __init__(self, database, late, worker):
        self._database = database
        self._late = late
        self._worker = worker
        self._transaction = None

    async def take(self, kind, *lists):
        """Executes one step."""
        worker = self._worker
        doings = [self._doing(statements) for statements in lists]
        if kind == "act":
            await self._database.execute(lists[0])
        elif kind == "act together":
            async with self._database.transaction():
                await doings[0]()
        elif kind == "begin late" and self._transaction is None:
            self._transaction = self._late.transaction()
            await self._transaction.start()
            for statement in lists[0]:
                await self._late.execute(statement)
        elif kind == "commit late":
            await self.commit_late()
        elif kind == "refresh":
            worker.during_reading, worker.before_publishing = map(self._heard, doings)
            await worker.refresh()
        elif kind == "cut":
            await worker.disconnect(self._database, doings[0])
        elif kind == "cut while refreshing":
            worker.during_reading = lambda: worker.disconnect(self._database, doings[0])
            await worker.refresh()
        worker.during_reading = worker.before_publishing = nothing

    async def commit_late(self):
        if self._transaction is not None:
            await self._transaction.commit()
            self._transaction = None

    async def check(self):
        """Asserts that no deleted post and no blocked author is visible."""
        worker = self._worker
        await worker.until_received(self._database)
        if worker.behind:
            return
        snapshot = worker.snapshot
        live = await self._database.fetch("select id from animora.posts where deleted_at is null")
        assert worker.visible <= {row["id"] for row in live}
        assert set(snapshot.post_ids[snapshot.newer_than(0.0)].tolist()) <= worker.visible
        for one, other in await self._database.fetch("select blocker_id, blocked_id from animora.blocks"):
            assert other in worker.related(one)
            assert one in worker.related(other)

    def _doing(self, statements):
        async def do():
            for statement in statements:
                await self._database.execute(statement)

        return do

    def _heard(self, doing):
        async def do():
            await doing()
            await self._worker.until_received(self._database)

        return do


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps)
async def test_blocked_and_deleted_content_is_never_visible_and_a_reconcile_equals_a_fresh_load(
    database, postgres_url, store, taken
):
    await database.execute(BEGINNING)
    async with AsyncExitStack() as stack:
        late = await asyncpg.connect(postgres_url)
        stack.callback(late.terminate)
        worker = CatalogWorker(postgres_url, store)
        await stack.enter_async_context(worker.listener)
        world = World(database, late, worker)
        for _ in range(2):
            await worker.refresh()
        for step in taken:
            await world.take(*step)
            await world.check()
        await world.commit_late()
        await worker.until_received(database)
        worker.catch_up()
        for _ in range(2):
            await worker.refresh()

        assert content(worker.snapshot) == content(await loaded(store))


async def loaded(store):
    """The snapshot of a fresh load of the database."""
    async with store.reading() as reading:
        refresh = Refresh(reading, Catalog.empty(None), CatalogSettings(), time.monotonic())
        return (await refresh.reconcile()).snapshot


@pytest.fixture
async def worker(database, postgres_url, store):
    """A running worker that polls only to catch up."""
    await database.execute(BEGINNING)
    worker = CatalogWorker(postgres_url, store)
    async with worker.listener, worker.refresher, worker.blocks:
        await until(lambda: worker.visible)
        yield worker


def seen(worker):
    """The visible posts, and the users related to users 1 and 3."""
    return worker.visible, worker.related(1), worker.related(3)


async def act(database):
    await database.execute("insert into animora_app.block_relations values (4, 3), (3, 1)")
    await database.execute("update animora_app.posts set deleted_at = now() where id = 1")
    await database.execute("delete from animora_app.posts where id = 2")
    await database.execute("delete from animora_app.block_relations where blocked_id in (1, 2)")


async def test_blocks_and_deletions_take_effect_without_a_poll(database, worker):
    assert seen(worker) == ({1, 2, 3, 4, 5}, [2], [])

    await act(database)

    await until(lambda: seen(worker) == ({3, 4, 5}, [], [4]))


async def test_blocks_and_deletions_take_effect_while_a_snapshot_is_being_published(database, worker):
    waits, released = asyncio.Event(), asyncio.Event()

    async def wait():
        waits.set()
        await released.wait()

    worker.before_publishing = wait
    worker.refresher.catch_up()
    await waits.wait()
    before = worker.snapshot.read_at

    await act(database)
    await until(lambda: seen(worker) == ({3, 4, 5}, [], [4]))
    assert worker.snapshot.read_at == before

    released.set()
    await until(lambda: worker.snapshot.read_at > before)
    assert seen(worker) == ({3, 4, 5}, [], [4])


@pytest.mark.failure(25)
async def test_missed_events_take_effect_once_the_connection_is_back(database, worker):
    await worker.disconnect(database, lambda: act(database))

    await until(lambda: seen(worker) == ({3, 4, 5}, [], [4]))
