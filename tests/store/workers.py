"""What keeps the catalog of one process, put together as the server does, and the means to disturb it."""

import asyncio
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from animora_database.views import VIEWS
from animora_server.inference import ModelManager
from animora_server.observability.metrics import CatalogMetrics
from animora_server.settings import CatalogSettings, DatabaseSettings
from animora_server.store import BlockRefresher, CatalogSync, EventListener
from tests.limits import HANG_TIMEOUT

NOBODY = -1  # blocks someone, to mark a moment among the facts
LISTENERS = """
from pg_stat_activity
where datname = current_database() and query like '%pg_notify%' and pid <> pg_backend_pid()
"""


async def nothing():
    pass


class Worker:
    """Enter its listener, then call `refresh` by hand, or enter its refresher and `blocks` too.

    Attributes:
        behind: How many refreshes by hand are due since notifications were lost.
        during_reading: What happens in each refresh once its transaction has begun.
        before_publishing: What happens in each refresh once all is read.
    """

    def __init__(self, url, store):
        self.behind = 2
        self._store = store
        self.during_reading = self.before_publishing = nothing
        unused: Any = None  # no model is loaded
        self.model_manager = ModelManager(unused, unused, max_models=1)
        metrics = CatalogMetrics(CollectorRegistry())
        seldom = CatalogSettings(poll_interval=1e6, reconcile_interval=1e6, max_block_age=1e6)
        self.refresher = CatalogSync(self, seldom, metrics, self._publish)
        database = DatabaseSettings(url=SecretStr(url))
        self.listener = EventListener(database, metrics, self._correct, self._catch_up)
        self.blocks = BlockRefresher(
            store.with_separate_connection(),
            seldom,
            metrics,
            lambda: self.model_manager.block_age,
            self._publish_blocks,
        )
        self._marks = {}
        self._listening = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def snapshot(self):
        pin = self.model_manager.current()
        assert pin is not None
        return pin.snapshot

    @property
    def visible(self):
        """Ids of the posts that are not deleted."""
        if self.model_manager.current() is None:
            return set()
        index = self.snapshot.index
        return set(index.ids[~self.snapshot.is_deleted(index.values)].tolist())

    def related(self, user):
        return self.snapshot.related_authors(user).tolist()

    async def refresh(self):
        if self.behind == 1:
            await self.refresher.count()
        self.behind = max(self.behind - 1, 0)
        await self.refresher.refresh()

    async def until(self, holds):
        async with asyncio.timeout(HANG_TIMEOUT):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def hear(self, database):
        """Returns once everything committed so far was heard."""
        number = len(self._marks)
        self._marks[number] = asyncio.Event()
        await database.execute(f"notify animora, 'block {NOBODY} {number}'")
        async with asyncio.timeout(HANG_TIMEOUT):
            await self._marks[number].wait()

    async def cut(self, database, unheard):
        """Cuts the connection that listens; what happens until there is another is not heard."""
        self._listening.clear()
        # Returns once it has ended: to look for a time without a listener may come too late for it.
        await database.execute(f"select pg_terminate_backend(pid, {round(1000 * HANG_TIMEOUT)}) {LISTENERS}")
        await unheard()
        async with asyncio.timeout(HANG_TIMEOUT):
            await self._listening.wait()

    @asynccontextmanager
    async def reading(self, views=VIEWS):
        async with self._store.reading(views) as reading:
            await self.during_reading()
            yield reading

    def close(self):
        self._store.close()

    async def _publish(self, snapshot):
        await self.before_publishing()
        await self.model_manager.publish(snapshot)
        self._changed.set()

    def _publish_blocks(self, relations, read_at):
        self.model_manager.publish_blocks(relations, read_at)
        self._changed.set()

    def with_separate_connection(self):
        return self._store.with_separate_connection()

    def _correct(self, events):
        self.model_manager.apply(events)
        self.refresher.add_events(events)
        if events.unblocked:
            self.blocks.read_soon()
        self._changed.set()
        for blocker, blocked in events.blocks:
            if blocker == NOBODY:
                self._marks[blocked].set()
        return True

    def _catch_up(self):
        self.refresher.catch_up()
        self.behind = 2
        self._listening.set()
