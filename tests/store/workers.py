"""The parts that follow the database in one process, composed as in the server, with hooks for faults."""

import asyncio
import math
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from animora_database.views import VIEWS
from animora_server.inference.model_manager import ModelManager
from animora_server.observability.metrics import CatalogMetrics
from animora_server.scoring.serving_state import ServingStateHolder
from animora_server.settings import CatalogSettings, DatabaseSettings
from animora_server.store import BlockRefresher, CatalogSync, EventListener
from tests.support.until import HANG_TIMEOUT

MARKER_USER = -1  # the blocker of marker events, which show that all earlier events have arrived
LISTENERS = """
from pg_stat_activity
where datname = current_database() and query like '%pg_notify%' and pid <> pg_backend_pid()
"""


async def nothing():
    pass


class CatalogWorker:
    """Enter `listener`, then call `refresh` by hand, or enter `refresher` and `blocks` too.

    Attributes:
        behind: The number of refreshes by hand that are due after a loss of notifications.
        during_reading: Called in each refresh after its transaction has begun.
        before_publishing: Called in each refresh after everything is read.
    """

    def __init__(self, url, store):
        self.behind = 2
        self._store = store
        self.during_reading = self.before_publishing = nothing
        unused: Any = None  # no model is loaded
        self.model_manager = ModelManager(ServingStateHolder(math.inf), unused, unused, max_models=1)
        metrics = CatalogMetrics(CollectorRegistry())
        rare = CatalogSettings(poll_interval=1e6, reconcile_interval=1e6, max_block_age=1e6)
        self.refresher = CatalogSync(self, rare, metrics, self._publish)
        database = DatabaseSettings(url=SecretStr(url))
        self.listener = EventListener(database, metrics, self._correct, self.catch_up)
        self.blocks = BlockRefresher(
            store.with_separate_connection(),
            rare,
            metrics,
            lambda: self.model_manager.block_age,
            self._publish_blocks,
        )
        self._marks = {}
        self._listening = asyncio.Event()

    @property
    def snapshot(self):
        state = self.model_manager.states.latest
        assert state is not None
        return state.snapshot

    @property
    def visible(self):
        """Ids of the posts that are not deleted."""
        if self.model_manager.states.latest is None:
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

    async def until_received(self, database):
        """Waits until all events committed so far have arrived."""
        number = len(self._marks)
        self._marks[number] = asyncio.Event()
        await database.execute(f"notify animora, 'block {MARKER_USER} {number}'")
        async with asyncio.timeout(HANG_TIMEOUT):
            await self._marks[number].wait()

    async def disconnect(self, database, unheard):
        """Ends the listening connection; the events of `unheard` are not notified."""
        self._listening.clear()
        # Waits until the connection has ended: polling for its end could miss it.
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

    def _publish_blocks(self, relations, read_at):
        self.model_manager.publish_blocks(relations, read_at)

    def with_separate_connection(self):
        return self._store.with_separate_connection()

    def _correct(self, events):
        self.model_manager.apply(events)
        self.refresher.add_events(events)
        if events.unblocked:
            self.blocks.read_soon()
        for blocker, blocked in events.blocks:
            if blocker == MARKER_USER:
                self._marks[blocked].set()
        return True

    def catch_up(self):
        self.refresher.catch_up()
        self.behind = 2
        self._listening.set()
