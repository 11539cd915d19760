"""Reads the blocks over a separate connection when refreshes of the catalog take too long to bring them."""

import asyncio
import time
from collections.abc import Callable
from typing import Self

from animora_database.views import BLOCKS
from animora_server.background import BackgroundLoop
from animora_server.catalog import IdPairs, Relations
from animora_server.observability.metrics import CatalogMetrics
from animora_server.settings import CatalogSettings
from animora_server.store.protocols import CatalogStore

# The blocks are read here when they are older than the smaller of these two.
OVERDUE_POLLS = 2.0  # poll intervals
OVERDUE_SHARE = 0.5  # of catalog.max_block_age
MIN_PAUSE = 0.2  # seconds between two readings
MAX_BUSY_SHARE = 0.5  # of the time spent in readings, at most


class BlockRefresher:
    """Keeps the blocks fresh during a long refresh, and reads them early after an unblock.

    Each poll brings all blocks, so this usually has nothing to do. But a reconcile, or a poll that finds a
    million posts with new embeddings, may take longer than `catalog.max_block_age`.

    Args:
        store: The database, over a separate connection.
        settings: The poll interval and the maximum age of blocks.
        metrics: Records the age of the blocks.
        age: Returns the seconds since the current blocks were read.
        publish: Replaces the blocks that requests see; takes the time of the reading (`time.monotonic()`).

    Attributes:
        loop: The background loop.
    """

    def __init__(
        self,
        store: CatalogStore,
        settings: CatalogSettings,
        metrics: CatalogMetrics,
        age: Callable[[], float],
        publish: Callable[[Relations, float], None],
    ) -> None:
        self._store = store
        self._overdue = min(OVERDUE_POLLS * settings.poll_interval, OVERDUE_SHARE * settings.max_block_age)
        self._metrics = metrics
        self._age = age
        self._publish = publish
        self._unblocked = asyncio.Event()
        self._found = IdPairs.empty()
        self._relations = Relations.empty()
        self.loop = BackgroundLoop("block-refresher", self._round, wake=self._unblocked)

    async def __aenter__(self) -> Self:
        """Starts."""
        self._metrics.block_age_from(self._age)
        self.loop.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stops at once, without waiting for the database."""
        await self.loop.stop()
        self._store.close()

    def read_soon(self) -> None:
        """Reads the blocks before they are overdue, after an unblock."""
        self._unblocked.set()

    async def _round(self) -> float:
        left = self._overdue - self._age()
        if left > 0 and not self._unblocked.is_set():
            return left
        began = time.monotonic()
        self._unblocked.clear()
        await self.refresh()
        took = time.monotonic() - began
        await asyncio.sleep(max(MIN_PAUSE, took * (1 / MAX_BUSY_SHARE - 1)))
        return 0.0

    async def refresh(self) -> None:
        """Reads the blocks and publishes them.

        Raises:
            StoreError: The database did not answer.
        """
        began = time.monotonic()
        async with self._store.reading((BLOCKS,)) as reading:
            found = await reading.blocks()
        if not await asyncio.to_thread(found.same_as, self._found):
            self._relations = await asyncio.to_thread(Relations.of, found.first, found.second)
            self._found = found
        self._publish(self._relations, began)
