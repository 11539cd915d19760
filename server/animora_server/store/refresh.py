"""One refresh of the catalog, from one consistent reading of the database."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta

import numpy as np

from animora_server.catalog import (
    NO_PREFERENCE,
    Activity,
    Catalog,
    Groups,
    InteractionBase,
    PostDraft,
    PostRecords,
    PostTable,
    WidthPreference,
    Widths,
)
from animora_server.settings import CatalogSettings
from animora_server.store.protocols import CatalogReading
from animora_server.types import BoolArray, IntArray

FILL_WINDOW = timedelta(days=1)  # for how long a post without embeddings is looked at again
FILLED_PER_POLL = 1000  # posts asked about for each embedding; a reconcile asks about all
RECHECKED_BYTES = 32 << 20  # of embeddings that a reconcile reads although nothing says that they changed
BYTES_PER_NUMBER = 4  # of an embedding, as PostgreSQL sends it
MIN_POST_BYTES = 64


class Refresh:
    """Makes the next catalog of the one before, which it leaves as it is.

    Work that grows with the catalog runs in worker threads, so that serving goes on.

    Args:
        reading: The database.
        catalog: The catalog so far.
        settings: How far back to recount, and how long a post counts as seen.
        began: `time.monotonic()` before the reading began.
        preference: Which embeddings the models take.

    Attributes:
        unusable: How many image and caption embeddings count as absent: of another width, or not finite;
            None if no post changed.
        left_out: How many rows do not count, by view and reason; empty after a poll, which does not look.
    """

    def __init__(
        self,
        reading: CatalogReading,
        catalog: Catalog,
        settings: CatalogSettings,
        began: float,
        preference: WidthPreference = NO_PREFERENCE,
    ) -> None:
        self.unusable: Widths | None = None
        self._preference = preference
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
        posts = await self._posts(found, await self._outdated(found), removed)
        posts = await self._of_chosen_widths(posts, found)
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
        filled = await self._filled(FILLED_PER_POLL)
        found = await self._reading.posts_since(since - self._window)
        # The other posts are read by the same rules, so that none of them can be both gone and found.
        others = await asyncio.to_thread(np.union1d, deleted, filled)
        if len(others):
            found = await asyncio.to_thread(found.joined, await self._reading.posts_of(others))
        outdated = await asyncio.to_thread(lambda: self._table.outdated(found) | np.isin(found.ids, filled))
        posts = await self._posts(found, outdated, deleted)
        return await self._with_activity(posts, self._catalog.activity.base)

    async def _outdated(self, found: PostRecords) -> BoolArray:
        """Which of all posts found are new, edited, filled, or in turn to be read again: bool (k)."""
        filled = await self._filled()
        return await asyncio.to_thread(
            lambda: self._table.outdated(found) | np.isin(found.ids, filled) | self._in_turn(len(found))
        )

    def _in_turn(self, posts: int) -> BoolArray:
        """Which of the posts a reconcile reads the embeddings of, whatever their times say: bool (posts).

        That is all of a small catalog, and of a large one another part each time.
        """
        widths = self._table.embeddings.widths
        bytes_per_post = MIN_POST_BYTES + BYTES_PER_NUMBER * (widths.image + widths.caption)
        turns = -(-posts * bytes_per_post // RECHECKED_BYTES) or 1
        turn = int(self._reading.now.timestamp() / self._settings.reconcile_interval) % turns
        chosen = np.zeros(posts, np.bool_)
        chosen[turn::turns] = True
        return chosen

    async def _filled(self, most: int | None = None) -> IntArray:
        """Young posts that lacked an embedding and have it now; the view need not call that an edit.

        Args:
            most: How many posts to ask about for each embedding, the youngest; None asks about all.
        """
        since = (self._reading.now - FILL_WINDOW).timestamp()
        no_image, no_caption = await asyncio.to_thread(self._table.lacking, since, most)
        if not len(no_image) and not len(no_caption):
            return np.empty(0, np.int64)
        return await self._reading.filled(no_image, no_caption)

    async def _posts(self, found: PostRecords, outdated: BoolArray, removed: IntArray) -> PostTable:
        """The next table; reads the embeddings of the posts found that are outdated."""
        draft = await asyncio.to_thread(PostDraft, self._table, found, outdated, self._preference)
        if len(self._table):
            await self._reading.embeddings_of(found.ids[draft.pending], draft.add)
        else:
            await self._all_embeddings(found, draft)
        posts = await asyncio.to_thread(draft.finish, removed, self._reading.now.timestamp())
        if posts is not self._table:
            self.unusable = await asyncio.to_thread(posts.unusable)
        return posts

    async def _of_chosen_widths(self, posts: PostTable, found: PostRecords) -> PostTable:
        """The same posts, with embeddings of the widths that the models take, or that most of them have."""
        kept = posts.embeddings.widths
        widths = await asyncio.to_thread(lambda: self._preference.choose(*posts.found_widths(), kept))
        if widths == kept:
            return posts
        empty = PostTable.empty(self._settings.directory)
        draft = PostDraft(empty, found, np.ones(len(found), np.bool_), WidthPreference(serving=widths))
        await self._all_embeddings(found, draft)

        def rewritten() -> PostTable:
            return draft.finish(np.empty(0, np.int64), self._reading.now.timestamp()).in_order_of(posts)

        posts = await asyncio.to_thread(rewritten)
        self.unusable = await asyncio.to_thread(posts.unusable)
        return posts

    async def _all_embeddings(self, found: PostRecords, draft: PostDraft) -> None:
        """Reads the embeddings of all posts; of those that are shown twice, first the row that counts."""
        await self._reading.embeddings_of(np.unique(found.repeated), draft.add)
        await self._reading.embeddings(draft.add)

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
