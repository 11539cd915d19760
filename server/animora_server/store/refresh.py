"""One refresh of the catalog, from one consistent reading of the database."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta

import numpy as np

from animora_server.catalog import (
    Activity,
    Catalog,
    Groups,
    InteractionBase,
    PostDraft,
    PostRecords,
    PostTable,
)
from animora_server.settings import CatalogSettings
from animora_server.store.protocols import CatalogReading
from animora_server.types import IntArray

FILL_WINDOW = timedelta(days=1)  # for how long a post without embeddings is looked at again


class Refresh:
    """Makes the next catalog of the one before, which it leaves as it is.

    Work that grows with the catalog runs in worker threads, so that serving goes on.

    Args:
        reading: The database.
        catalog: The catalog so far.
        settings: How far back to recount, and how long a post counts as seen.
        began: `time.monotonic()` before the reading began.

    Attributes:
        misfits: How many of the embeddings read counted as none, being of another width or not finite.
        left_out: How many rows do not count, by view and reason; empty after a poll, which does not look.
    """

    def __init__(
        self, reading: CatalogReading, catalog: Catalog, settings: CatalogSettings, began: float
    ) -> None:
        self.misfits = 0
        self.left_out: Mapping[tuple[str, str], int] = {}
        self._reading = reading
        self._catalog = catalog
        self._table = catalog.posts
        self._settings = settings
        self._window = timedelta(seconds=settings.recount_window)
        self._began = began

    async def reconcile(self) -> Catalog:
        """Compares everything; the first load is a reconcile with an empty catalog.

        Raises:
            StoreError: The database did not answer.
            OSError: The embeddings cannot be written.
        """
        found = await self._reading.posts()
        repeated = len(found.repeated)
        self.left_out = {**await self._reading.left_out(), ("posts", "duplicate"): repeated}
        removed = await asyncio.to_thread(self._table.missing, found)
        posts = await self._posts(found, await self._filled(), removed)
        return await self._with_activity(posts, await self._base())

    async def poll(self, since: datetime, deleted: IntArray) -> Catalog:
        """Looks at posts made, edited or soft-deleted lately, at recent interactions, and at all blocks.

        Args:
            since: When the database was read before; what was committed late is looked for before that.
            deleted: int64 (k), posts that are said to be gone, which the times of those left cannot tell.

        Raises:
            StoreError: The database did not answer.
            OSError: The embeddings cannot be written.
        """
        filled = await self._filled()
        found = await self._reading.posts_since(since - self._window)
        # The other posts are read by the same rules, so that none of them can be both gone and found.
        others = await asyncio.to_thread(np.union1d, deleted, filled)
        if len(others):
            found = await asyncio.to_thread(found.joined, await self._reading.posts_of(others))
        posts = await self._posts(found, filled, deleted)
        return await self._with_activity(posts, self._catalog.activity.base)

    async def _filled(self) -> IntArray:
        """Young posts that lacked an embedding and have it now; the view need not call that an edit."""
        since = (self._reading.now - FILL_WINDOW).timestamp()
        no_image, no_caption = await asyncio.to_thread(self._table.lacking, since)
        if not len(no_image) and not len(no_caption):
            return np.empty(0, np.int64)
        return await self._reading.filled(no_image, no_caption)

    async def _posts(self, found: PostRecords, filled: IntArray, removed: IntArray) -> PostTable:
        """The next table; reads the embeddings of posts that are new, edited or filled."""
        draft = await asyncio.to_thread(self._draft, found, filled)
        if len(self._table):
            await self._reading.embeddings_of(found.ids[draft.pending], draft.add)
        else:
            await self._reading.embeddings_of(np.unique(found.repeated), draft.add)
            await self._reading.embeddings(draft.add)
        self.misfits = draft.misfits
        return await asyncio.to_thread(draft.finish, removed, self._reading.now.timestamp())

    def _draft(self, found: PostRecords, filled: IntArray) -> PostDraft:
        return PostDraft(self._table, found, self._table.outdated(found) | np.isin(found.ids, filled))

    async def _base(self) -> InteractionBase:
        until = self._reading.now - self._window
        counts = await self._reading.interaction_counts(until)
        seen_since = self._reading.now - timedelta(days=self._settings.seen_window_days)
        seen = await self._reading.interactions(seen_since, until)
        return InteractionBase(until, counts, await asyncio.to_thread(Groups.of, seen.first, seen.second))

    async def _with_activity(self, posts: PostTable, base: InteractionBase) -> Catalog:
        recent = await self._reading.interactions(base.until)
        activity = Activity(
            base, recent, await self._reading.blocks(), self._reading.now.timestamp(), self._began
        )
        return await asyncio.to_thread(self._catalog.refreshed, posts, activity)
