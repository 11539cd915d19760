"""One refresh of the catalog from one reading of the database: a poll or a reconcile."""

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
    Histories,
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
EARLIEST = datetime(1, 1, 2, tzinfo=UTC)  # valid in every time zone
FILL_WINDOW = timedelta(days=1)  # age up to which a post without embeddings is checked again
FILL_CHECKS_PER_POLL = 1000  # posts checked in a poll for each of image and caption; a reconcile checks all
RECHECK_BYTES = 32 << 20  # of embeddings that a reconcile reads again although their posts were not edited
BYTES_PER_NUMBER = 4  # of an embedding, as PostgreSQL sends it
MIN_POST_BYTES = 64


@dataclass(frozen=True, slots=True)
class InteractionScan:
    """The result of counting all interactions.

    Attributes:
        base: The interactions.
        left_out: The number of left-out rows, by view and reason.
        hidden: See CatalogReading.
    """

    base: InteractionBase
    left_out: Mapping[tuple[str, str], int]
    hidden: Sequence[tuple[str, str, str]]


class Refresh:
    """Makes the next catalog from the previous one, which is unchanged.

    Work that grows with the catalog runs in worker threads, so that the event loop keeps serving.

    Args:
        reading: The reading.
        catalog: The previous catalog.
        settings: The recount window, the seen window and the length of histories.
        began: `time.monotonic()` before the reading began.
        preference: The embedding widths that the models take.

    Attributes:
        unusable: The number of image and of caption embeddings that count as absent, because of another width
            or numbers that are not finite; None if no post changed.
        left_out: The number of left-out rows, by view and reason; empty after a poll.
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
        # Always later than the previous snapshot, even if the database's clock stepped back, as after a
        # failover: an older timeline must not seem to contain this reading's posts.
        self._read_at = max(reading.now.timestamp(), math.nextafter(catalog.snapshot.read_at, math.inf))

    async def reconcile(self, count: InteractionScan | None = None) -> Catalog:
        """Compares the whole catalog with the database. The first load is a reconcile of an empty catalog.

        Args:
            count: The interactions counted in another reading; None counts them in this reading.

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
        """Reads posts created, edited or soft-deleted lately, recent interactions, and all blocks.

        Args:
            since: The database's time of the previous reading. Commits that are late by up to the recount
                window are found.
            deleted: int64 (k), notified deletions, because a poll cannot find posts that left the view.

        Raises:
            StoreError: The database did not answer.
            OSError: The embeddings cannot be written.
        """
        filled = await self._filled_posts(FILL_CHECKS_PER_POLL)
        since = min(since, self._reading.now)  # the clock may have stepped back
        found = await self._reading.posts_since(subtract_seconds(since, self._settings.recount_window))
        # Notified and filled posts are read by id, so that each of them is either found or removed.
        others = await asyncio.to_thread(np.union1d, deleted, filled)
        if len(others):
            found = await asyncio.to_thread(found.merged, await self._reading.posts_of(others))
        outdated = await asyncio.to_thread(lambda: self._table.outdated(found) | np.isin(found.ids, filled))
        posts = await self._posts(found, outdated, deleted)
        return await self._with_activity(posts, self._catalog.activity.base)

    async def _outdated(self, found: PostRecords) -> BoolArray:
        """Which of all posts found are new, edited, filled or due for a recheck: bool (k)."""
        filled = await self._filled_posts()
        return await asyncio.to_thread(
            lambda: (
                self._table.outdated(found) | np.isin(found.ids, filled) | self._due_for_recheck(len(found))
            )
        )

    def _due_for_recheck(self, posts: int) -> BoolArray:
        """Which posts' embeddings a reconcile reads again although no edit is recorded: bool (posts).

        All posts of a small catalog; of a large one a different part in each reconcile.
        """
        widths = self._table.embeddings.widths
        bytes_per_post = MIN_POST_BYTES + BYTES_PER_NUMBER * (widths.image + widths.caption)
        turns = -(-posts * bytes_per_post // RECHECK_BYTES) or 1
        turn = self._catalog.activity.base.number % turns
        chosen = np.zeros(posts, np.bool_)
        chosen[turn::turns] = True
        return chosen

    async def _filled_posts(self, limit: int | None = None) -> IntArray:
        """Young posts that lacked an embedding and have it now, which the view need not count as an edit.

        Args:
            limit: The number of posts to check for each of image and caption, the youngest; None for all.
        """
        since = (self._reading.now - FILL_WINDOW).timestamp()
        no_image, no_caption = await asyncio.to_thread(self._table.without_embeddings, since, limit)
        if not len(no_image) and not len(no_caption):
            return np.empty(0, np.int64)
        return await self._reading.filled(no_image, no_caption)

    async def _posts(self, found: PostRecords, outdated: BoolArray, removed: IntArray) -> CatalogPosts:
        """Builds the next table; reads the embeddings of the outdated posts."""
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
        """The same posts with embeddings of the widths that the preference chooses among all posts."""
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
        """Reads the embeddings of all posts; for duplicate ids first those of the preferred row."""
        await self._reading.embeddings_of(np.unique(found.repeated), builder.add)
        await self._reading.embeddings(builder.add)

    async def _with_activity(self, posts: CatalogPosts, base: InteractionBase) -> Catalog:
        base = await self._extended_base(base)
        recent = await self._reading.interactions(base.until, history=self._settings.history)
        activity = Activity(base, recent, await self._reading.blocks(), self._read_at, self._began_at)
        return await asyncio.to_thread(self._catalog.refreshed, posts, activity)

    def lacks_interactions(self, catalog: Catalog) -> bool:
        """Whether interactions are missing until the next count.

        The base ends within the recount window only if the database's clock stepped back: interactions made
        after that are neither in the base nor later than it.
        """
        return catalog.activity.base.until > subtract_seconds(
            self._reading.now, self._settings.recount_window
        )

    async def _extended_base(self, base: InteractionBase) -> InteractionBase:
        """The base, extended up to the recount window if it ends much earlier, so that polls read little."""
        until = subtract_seconds(self._reading.now, self._settings.recount_window)
        if base.until >= subtract_seconds(until, self._settings.recount_window):
            return base
        added = await self._reading.interactions(base.until, until, history=self._settings.history)
        return await asyncio.to_thread(base.extended, until, added)


async def count_rows(reading: CatalogReading, settings: CatalogSettings) -> InteractionScan:
    """Counts all interactions before the recount window, and the left-out rows of all views.

    Raises:
        StoreError: The database did not answer.
    """
    until = subtract_seconds(reading.now, settings.recount_window)
    counts = await reading.interaction_counts(until)
    seen_since = subtract_seconds(reading.now, settings.seen_window_days * SECONDS_A_DAY)
    seen, histories = await reading.seen_posts(seen_since, until, history=settings.history)
    base = InteractionBase(until, counts, seen, histories=Histories(settings.history, histories))
    return InteractionScan(base, await reading.left_out(), await reading.hidden())


def subtract_seconds(moment: datetime, seconds: float) -> datetime:
    """A moment minus some seconds, or EARLIEST if that does not exist."""
    try:
        return moment - timedelta(seconds=seconds)
    except OverflowError:
        return EARLIEST
