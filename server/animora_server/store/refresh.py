"""One refresh of the catalog, from one consistent reading of the database."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from animora_server.catalog import (
    NO_PREFERENCE,
    Activity,
    Catalog,
    CatalogPosts,
    InteractionBase,
    PostRecords,
    PostTableBuilder,
    WidthPreference,
    Widths,
)
from animora_server.settings import CatalogSettings
from animora_server.store.protocols import CatalogReading
from animora_server.types import BoolArray, IntArray

SECONDS_A_DAY = 86_400
EARLIEST = datetime(1, 1, 2, tzinfo=UTC)  # any time zone can show it
FILL_WINDOW = timedelta(days=1)  # for how long a post without embeddings is looked at again
FILL_CHECKS_PER_POLL = 1000  # posts asked about for each embedding; a reconcile asks about all
RECHECK_BYTES = 32 << 20  # of embeddings that a reconcile reads although nothing says that they changed
BYTES_PER_NUMBER = 4  # of an embedding, as PostgreSQL sends it
MIN_POST_BYTES = 64


@dataclass(frozen=True, slots=True)
class InteractionScan:
    """What a reading of all interactions gives.

    Attributes:
        base: The interactions.
        left_out: How many rows do not count, by view and reason.
        hidden: See CatalogReading.
    """

    base: InteractionBase
    left_out: Mapping[tuple[str, str], int]
    hidden: Sequence[tuple[str, str, str]]


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
        hidden: See CatalogReading; None after a poll.
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
        self.hidden: Sequence[tuple[str, str, str]] | None = None
        self._reading = reading
        self._catalog = catalog
        self._table = catalog.posts
        self._settings = settings
        self._began_at = began
        # A list that was made before must not pass for one that has what this reading finds, although the
        # database's clock may have stepped back, as after a failover.
        self._read_at = max(reading.now.timestamp(), math.nextafter(catalog.snapshot.read_at, math.inf))

    async def reconcile(self, count: InteractionScan | None = None) -> Catalog:
        """Compares everything; the first load is a reconcile with an empty catalog.

        Args:
            count: What another reading has counted; None counts in this one.

        Raises:
            StoreError: The database did not answer.
            OSError: The embeddings cannot be written.
        """
        found = await self._reading.posts()
        removed = await asyncio.to_thread(self._table.missing, found)
        posts = await self._posts(found, await self._outdated(found), removed)
        posts = await self._with_chosen_widths(posts, found)
        if count is None:
            count = await count_rows(self._reading, self._settings)
        self.hidden = count.hidden
        self.left_out = {**count.left_out, ("posts", "duplicate"): len(found.repeated)}
        base = replace(count.base, number=self._catalog.activity.base.number + 1)
        return await self._with_activity(posts, base)

    async def poll(self, since: datetime, deleted: IntArray) -> Catalog:
        """Looks at posts made, edited or soft-deleted lately, at recent interactions, and at all blocks.

        Args:
            since: When the database was read before; what was committed late is looked for before that.
            deleted: int64 (k), posts that are said to be gone, which the times of those left cannot tell.

        Raises:
            StoreError: The database did not answer.
            OSError: The embeddings cannot be written.
        """
        filled = await self._filled_posts(FILL_CHECKS_PER_POLL)
        since = min(since, self._reading.now)  # the clock may have stepped back
        found = await self._reading.posts_since(subtract_seconds(since, self._settings.recount_window))
        # The other posts are read by the same rules, so that none of them can be both gone and found.
        others = await asyncio.to_thread(np.union1d, deleted, filled)
        if len(others):
            found = await asyncio.to_thread(found.merged, await self._reading.posts_of(others))
        outdated = await asyncio.to_thread(lambda: self._table.outdated(found) | np.isin(found.ids, filled))
        posts = await self._posts(found, outdated, deleted)
        return await self._with_activity(posts, self._catalog.activity.base)

    async def _outdated(self, found: PostRecords) -> BoolArray:
        """Which of all posts found are new, edited, filled, or in turn to be read again: bool (k)."""
        filled = await self._filled_posts()
        return await asyncio.to_thread(
            lambda: (
                self._table.outdated(found) | np.isin(found.ids, filled) | self._due_for_recheck(len(found))
            )
        )

    def _due_for_recheck(self, posts: int) -> BoolArray:
        """Which of the posts a reconcile reads the embeddings of, whatever their times say: bool (posts).

        That is all of a small catalog, and of a large one another part each time.
        """
        widths = self._table.embeddings.widths
        bytes_per_post = MIN_POST_BYTES + BYTES_PER_NUMBER * (widths.image + widths.caption)
        turns = -(-posts * bytes_per_post // RECHECK_BYTES) or 1
        turn = self._catalog.activity.base.number % turns
        chosen = np.zeros(posts, np.bool_)
        chosen[turn::turns] = True
        return chosen

    async def _filled_posts(self, limit: int | None = None) -> IntArray:
        """Young posts that lacked an embedding and have it now; the view need not call that an edit.

        Args:
            limit: How many posts to ask about for each embedding, the youngest; None asks about all.
        """
        since = (self._reading.now - FILL_WINDOW).timestamp()
        no_image, no_caption = await asyncio.to_thread(self._table.without_embeddings, since, limit)
        if not len(no_image) and not len(no_caption):
            return np.empty(0, np.int64)
        return await self._reading.filled(no_image, no_caption)

    async def _posts(self, found: PostRecords, outdated: BoolArray, removed: IntArray) -> CatalogPosts:
        """The next table; reads the embeddings of the posts found that are outdated."""
        builder = await asyncio.to_thread(PostTableBuilder, self._table, found, outdated, self._preference)
        if len(self._table):
            await self._reading.embeddings_of(found.ids[builder.pending], builder.add)
        else:
            await self._all_embeddings(found, builder)
        posts = await asyncio.to_thread(builder.finish, removed, self._read_at)
        if posts is not self._table:
            self.unusable = await asyncio.to_thread(posts.unusable)
        return posts

    async def _with_chosen_widths(self, posts: CatalogPosts, found: PostRecords) -> CatalogPosts:
        """The same posts, with embeddings of the widths that the models take, or that most of them have."""
        kept = posts.embeddings.widths
        widths = await asyncio.to_thread(lambda: self._preference.choose(*posts.found_widths(), kept))
        if widths == kept:
            return posts
        empty = CatalogPosts.empty(self._settings.directory)
        builder = PostTableBuilder(
            empty, found, np.ones(len(found), np.bool_), WidthPreference(serving=widths)
        )
        await self._all_embeddings(found, builder)

        def rewritten() -> CatalogPosts:
            return builder.finish(np.empty(0, np.int64), self._read_at).in_order_of(posts)

        posts = await asyncio.to_thread(rewritten)
        self.unusable = await asyncio.to_thread(posts.unusable)
        return posts

    async def _all_embeddings(self, found: PostRecords, builder: PostTableBuilder) -> None:
        """Reads the embeddings of all posts; of those that are shown twice, first the row that counts."""
        await self._reading.embeddings_of(np.unique(found.repeated), builder.add)
        await self._reading.embeddings(builder.add)

    async def _with_activity(self, posts: CatalogPosts, base: InteractionBase) -> Catalog:
        base = await self._extended_base(base)
        recent = await self._reading.interactions(base.until)
        activity = Activity(base, recent, await self._reading.blocks(), self._read_at, self._began_at)
        return await asyncio.to_thread(self._catalog.refreshed, posts, activity)

    def lacks_interactions(self, catalog: Catalog) -> bool:
        """Whether a catalog lacks interactions until all are counted again.

        Its base ends in the recount window only where the database's clock has stepped back since: what was
        made then is neither in the base nor after it.
        """
        return catalog.activity.base.until > subtract_seconds(
            self._reading.now, self._settings.recount_window
        )

    async def _extended_base(self, base: InteractionBase) -> InteractionBase:
        """The base, up to the recount window if it ends long before, so that polls read little."""
        until = subtract_seconds(self._reading.now, self._settings.recount_window)
        if base.until >= subtract_seconds(until, self._settings.recount_window):
            return base
        added = await self._reading.interactions(base.until, until)
        return await asyncio.to_thread(base.extended, until, added)


async def count_rows(reading: CatalogReading, settings: CatalogSettings) -> InteractionScan:
    """Counts all interactions but those within the recount window, and the rows that do not count.

    Raises:
        StoreError: The database did not answer.
    """
    until = subtract_seconds(reading.now, settings.recount_window)
    counts = await reading.interaction_counts(until)
    seen_since = subtract_seconds(reading.now, settings.seen_window_days * SECONDS_A_DAY)
    seen = await reading.seen_posts(seen_since, until)
    base = InteractionBase(until, counts, seen)
    return InteractionScan(base, await reading.left_out(), await reading.hidden())


def subtract_seconds(moment: datetime, seconds: float) -> datetime:
    """Some seconds before a moment, or the earliest moment that there is."""
    try:
        return moment - timedelta(seconds=seconds)
    except OverflowError:
        return EARLIEST
