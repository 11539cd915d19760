"""Reads the blocks on a connection of their own, where refreshes of the catalog do not bring them in time."""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from animora_database.views import BLOCKS
from animora_server.background import BackgroundLoop
from animora_server.catalog import IdPairs, Relations
from animora_server.observability.metrics import CatalogMetrics
from animora_server.settings import CatalogSettings
from animora_server.store.protocols import CatalogStore

OVERDUE_POLLS = 2.0  # poll intervals after which the blocks are read here,
OVERDUE_SHARE = 0.5  # or after this share of the age that they may have, where that is sooner
MIN_PAUSE = 0.2  # seconds between two readings, however many blocks are said to be taken back
MAX_BUSY_SHARE = 0.5  # of the time, at most, that goes into readings here


class BlockRefresher:
    """Keeps the blocks fresh while a refresh takes long, and reads them early when one was taken back.

    A poll brings all blocks, so that mostly there is nothing to do here. But a reconcile, or a poll that
    finds a million posts with new embeddings, may take longer than blocks may be old.

    Args:
        store: The database, over a connection of its own.
        settings: How often polls are due, and how old blocks may be.
        metrics: What is recorded.
        age: Seconds since the blocks that requests see were read.
        publish: Makes blocks, read at a time (`time.monotonic()`), those that requests see.

    Attributes:
        loop: Reads them.
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

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops at once, whatever state the database is in."""
        await self.loop.stop()
        self._store.close()

    def read_soon(self) -> None:
        """Reads the blocks although they are not old: one was taken back."""
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
