"""One worker's catalog, whatever is committed, polled, heard or lost, in whichever order."""

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from animora_server.catalog import Catalog
from animora_server.metrics import CatalogMetrics
from animora_server.scorer import Residency
from animora_server.settings import CatalogSettings, DatabaseSettings
from animora_server.store import CatalogRefresher, FactListener
from animora_server.store.refresh import Refresh
from tests.store.contents import content

EXAMPLES = 15
PATIENCE = 30  # seconds

LISTENERS = """
from pg_stat_activity
where datname = current_database() and query like '%pg_notify%' and pid <> pg_backend_pid()
"""
BEGINNING = """
truncate animora_app.posts, animora_app.likes, animora_app.comments, animora_app.block_relations;
insert into animora_app.posts (id, author_id) select n, n % 3 + 1 from generate_series(1, 5) as n;
insert into animora_app.block_relations values (1, 2), (2, 1);
"""
NOBODY = -1  # blocks someone to mark a moment among the facts
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
    """What an application does to five posts and three users, so few that much happens to each."""
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


async def _nothing():
    pass


class Worker:
    """What keeps the catalog of one process, driven by hand.

    Attributes:
        behind: How many refreshes are due since notifications were lost.
    """

    def __init__(self, url, store):
        self.behind = 2
        self.residency = Residency(None, None, max_models=1)  # no model is loaded, so no device is needed
        metrics = CatalogMetrics(CollectorRegistry())
        seldom = CatalogSettings(reconcile_interval=1e6)
        self.refresher = CatalogRefresher(self, seldom, metrics, self._publish)
        database = DatabaseSettings(url=SecretStr(url))
        self.listener = FactListener(database, metrics, self._correct, self._catch_up)
        self._store = store
        self._marks = {}
        self._listening = asyncio.Event()
        self._during_reading = self._before_publishing = _nothing

    @property
    def snapshot(self):
        return self.residency.current().snapshot

    async def refresh(self, during_reading=_nothing, before_publishing=_nothing):
        """Refreshes once, as the worker does by itself; other things happen meanwhile."""
        self._during_reading, self._before_publishing = during_reading, before_publishing
        self.behind = max(self.behind - 1, 0)
        await self.refresher.refresh()

    async def hear(self, database):
        """Returns once everything committed so far was heard."""
        number = len(self._marks)
        self._marks[number] = asyncio.Event()
        await database.execute(f"notify animora, 'block {NOBODY} {number}'")
        async with asyncio.timeout(PATIENCE):
            await self._marks[number].wait()

    async def cut(self, database, unheard):
        """Cuts the connection that listens; what happens until there is another is not heard."""
        self._listening.clear()
        await database.execute(f"select pg_terminate_backend(pid) {LISTENERS}")
        while await database.fetchval(f"select count(*) {LISTENERS}"):
            pass
        await unheard()
        async with asyncio.timeout(PATIENCE):
            await self._listening.wait()

    @asynccontextmanager
    async def reading(self):
        async with self._store.reading() as reading:
            await self._during_reading()
            yield reading

    def close(self):
        self._store.close()

    async def _publish(self, snapshot):
        await self._before_publishing()
        await self.residency.publish(snapshot)

    def _correct(self, facts):
        self.residency.correct(facts)
        self.refresher.correct(facts)
        for blocker, blocked in facts.blocks:
            if blocker == NOBODY:
                self._marks[blocked].set()

    def _catch_up(self):
        self.refresher.catch_up()
        self.behind = 2
        self._listening.set()


class World:
    """An application, a slower one, and a worker that follows both."""

    def __init__(self, database, late, worker):
        self._database = database
        self._late = late
        self._worker = worker
        self._transaction = None

    async def take(self, kind, *lists):
        """Takes one of the steps."""
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
            await worker.refresh(*(self._heard(doing) for doing in doings))
        elif kind == "cut":
            await worker.cut(self._database, doings[0])
        elif kind == "cut while refreshing":
            await worker.refresh(lambda: worker.cut(self._database, doings[0]))

    async def commit_late(self):
        if self._transaction is not None:
            await self._transaction.commit()
            self._transaction = None

    async def check(self):
        """Nobody sees what was deleted, or whom they block."""
        await self._worker.hear(self._database)
        if self._worker.behind:
            return
        snapshot = self._worker.snapshot
        ids = snapshot.index.ids
        seen = set(ids[~snapshot.deleted[snapshot.index.values]].tolist())
        live = await self._database.fetch("select id from animora.posts where deleted_at is null")
        assert seen <= {row["id"] for row in live}
        assert set(snapshot.post_ids[snapshot.newer_than(0.0)].tolist()) <= seen
        for one, other in await self._database.fetch("select blocker_id, blocked_id from animora.blocks"):
            assert other in snapshot.related_authors(one)
            assert one in snapshot.related_authors(other)

    def _doing(self, statements):
        async def do():
            for statement in statements:
                await self._database.execute(statement)

        return do

    def _heard(self, doing):
        async def do():
            await doing()
            await self._worker.hear(self._database)

        return do


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps)
async def test_nobody_sees_what_they_must_not_and_a_reconcile_equals_a_fresh_load(
    database, postgres_url, store, taken
):
    await database.execute(BEGINNING)
    async with AsyncExitStack() as stack:
        late = await asyncpg.connect(postgres_url)
        stack.callback(late.terminate)
        worker = Worker(postgres_url, store)
        await stack.enter_async_context(worker.listener)
        world = World(database, late, worker)
        for _ in range(2):
            await worker.refresh()
        for step in taken:
            await world.take(*step)
            await world.check()
        await world.commit_late()
        await worker.hear(database)
        worker.refresher.catch_up()
        for _ in range(2):
            await worker.refresh()

        assert content(worker.snapshot) == content(await loaded(store))


async def loaded(store):
    """A snapshot of a catalog that knows nothing but what is in the database now."""
    async with store.reading() as reading:
        refresh = Refresh(reading, Catalog.empty(None), CatalogSettings(), time.monotonic())
        return (await refresh.reconcile()).snapshot
