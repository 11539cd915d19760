"""A catalog that follows a database, refresh by refresh."""

import time

import numpy as np

from animora_server.catalog import NO_PREFERENCE, Catalog
from animora_server.settings import CatalogSettings
from animora_server.store.refresh import Refresh
from tests.store.contents import content

SETTINGS = CatalogSettings(history=50)
NO_IDS = np.empty(0, np.int64)


class Follower:
    """A catalog that is refreshed by hand."""

    def __init__(self, store, settings=SETTINGS):
        self.catalog = Catalog.empty(None)
        self.preference = NO_PREFERENCE
        self.unusable = None
        self.lacks_interactions = False
        self._store = store
        self._settings = settings
        self._read_at = None

    @property
    def snapshot(self):
        return self.catalog.snapshot

    async def reconcile(self):
        async with self._store.reading() as reading:
            refresh = self._refresh(reading)
            self.catalog = await refresh.reconcile()
            self.lacks_interactions = refresh.lacks_interactions(self.catalog)
            self.unusable = refresh.unusable
            self._read_at = reading.now

    async def poll(self, deleted=NO_IDS):
        async with self._store.reading() as reading:
            refresh = self._refresh(reading)
            self.catalog = await refresh.poll(self._read_at, deleted)
            self.lacks_interactions = refresh.lacks_interactions(self.catalog)
            self._read_at = reading.now

    def _refresh(self, reading):
        return Refresh(reading, self.catalog, self._settings, time.monotonic(), self.preference)


async def fresh_content(store):
    fresh = Follower(store)
    await fresh.reconcile()
    return content(fresh.snapshot)
