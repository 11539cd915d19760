"""Eligibility: which posts may be in a feed, which of them may be shown now, and why a post may not."""

from collections.abc import Mapping
from typing import Self

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.fast_dataclass import fast_dataclass
from animora_server.settings import TimelineSettings
from animora_server.types import BoolArray, DropReason, IntArray

DAY = 86_400.0  # seconds
NO_IDS = np.empty(0, np.int64)
# Why a post is not in a timeline; the first reason that applies counts.
REASONS = (
    DropReason.EXCLUDED, DropReason.UNKNOWN, DropReason.DELETED, DropReason.BLOCKED, DropReason.SEEN,
    DropReason.OWN, DropReason.TOO_OLD, DropReason.OUTRANKED,
)  # fmt: skip


@fast_dataclass
class VisibilityFilter:
    """What of a ranked timeline may be shown to its user now.

    Attributes:
        catalog: The catalog snapshot that decides.
        since: Unix time from which on posts are in timelines.
        user_id: Any signed 64-bit integer.
        include_own: Whether the user's own posts are shown.
        blocked_authors: int64 (k), ascending: authors whom the user blocks, or who block the user.
        seen: int64 (s), ascending: posts to hide because the user liked or commented on them.
        excluded: int64 (e), ascending: posts to hide because the call excludes them.
    """

    catalog: CatalogSnapshot
    since: float
    user_id: int
    include_own: bool
    blocked_authors: IntArray
    seen: IntArray
    excluded: IntArray

    @classmethod
    def of(
        cls,
        catalog: CatalogSnapshot,
        settings: TimelineSettings,
        now: float,
        user_id: int,
        include_seen: bool,
        excluded: IntArray = NO_IDS,
    ) -> Self:
        """The filter of a user, from a catalog snapshot.

        Args:
            catalog: The catalog snapshot.
            settings: The age of the oldest posts, and whether own posts are shown.
            now: Unix seconds.
            user_id: Any signed 64-bit integer.
            include_seen: Whether posts are shown that the user has liked or commented on.
            excluded: int64 (e), in any order.
        """
        return cls(
            catalog=catalog,
            since=window_start(settings, now),
            user_id=user_id,
            include_own=settings.include_own,
            blocked_authors=catalog.related_authors(user_id),
            seen=NO_IDS if include_seen else catalog.seen_posts(user_id),
            excluded=np.sort(excluded) if len(excluded) else NO_IDS,
        )

    def shown(self, post_ids: IntArray) -> BoolArray:
        """Which posts int64 (n) may be shown: bool (n).

        It runs for every page, so it is a few array operations, and none for an empty set.
        """
        catalog = self.catalog
        if not len(catalog.index):
            return np.zeros(len(post_ids), np.bool_)
        rows, shown = catalog.index.locate(post_ids)
        # Each array operation costs about two microseconds whatever its size, so there are few.
        shown &= catalog.created_at.take(rows) >= self.since
        shown = np.greater(shown, catalog.is_deleted(rows))  # shown and not deleted
        if not self.include_own or len(self.blocked_authors):
            authors = catalog.author_ids.take(rows)
            if not self.include_own:
                shown &= authors != self.user_id
            if len(self.blocked_authors):
                shown &= _not_in(self.blocked_authors, authors)
        if len(self.seen):
            shown &= _not_in(self.seen, post_ids)
        if len(self.excluded):
            shown &= _not_in(self.excluded, post_ids)
        return shown


def window_start(settings: TimelineSettings, now: float) -> float:
    """The unix time from which on posts are in timelines."""
    return now - settings.window_days * DAY


def candidates(visibility: VisibilityFilter, limit: int) -> IntArray:
    """Catalog rows int64 (m) of the posts to rank for a timeline, oldest first, among the newest `limit`.

    Blocks and exclusions are applied when a page is cut: they may change while a ranked timeline is stored.
    """
    catalog = visibility.catalog
    rows = catalog.feed.newest(visibility.since, limit)
    kept = ~catalog.is_deleted(rows)  # the feed index may hold deleted posts for a while
    if not visibility.include_own:
        kept &= catalog.author_ids[rows] != visibility.user_id
    if len(visibility.seen):
        # A mask over the catalog is cheaper than thousands of binary searches in the few seen posts.
        seen_rows = catalog.rows(visibility.seen)
        seen = np.zeros(len(catalog), np.bool_)
        seen[seen_rows[seen_rows >= 0]] = True
        kept &= ~seen[rows]
    return rows[kept]


def exclusion_reasons(
    visibility: VisibilityFilter, post_ids: IntArray, in_timeline: IntArray, limit: int
) -> Mapping[int, DropReason]:
    """Why posts are not in a timeline, by ascending id. Posts that are in the timeline have no entry.

    Args:
        visibility: The user's filter.
        post_ids: int64 (n), the posts to explain, in any order.
        in_timeline: int64 (k), the posts of the ranked timeline and the newer posts merged into it.
        limit: The number of the newest posts that are candidates.
    """
    catalog = visibility.catalog
    ids = np.unique(post_ids)
    rows = catalog.rows(ids)
    known = rows >= 0
    applies = np.zeros((len(REASONS), len(ids)), np.bool_)  # one row for each reason
    applies[0] = np.isin(ids, visibility.excluded)
    applies[1] = ~known
    known_ids, rows = ids[known], rows[known]
    authors = catalog.author_ids[rows]
    is_in_timeline = np.isin(known_ids, in_timeline)
    is_candidate = np.isin(rows, catalog.feed.newest(visibility.since, limit))
    applies[2:, known] = (
        catalog.is_deleted(rows),
        np.isin(authors, visibility.blocked_authors),
        np.isin(known_ids, visibility.seen),
        np.full(len(rows), not visibility.include_own) & (authors == visibility.user_id),
        (catalog.created_at[rows] < visibility.since) | ~(is_in_timeline | is_candidate),
        ~is_in_timeline,
    )
    missing = np.flatnonzero(applies.any(axis=0))
    first = applies.argmax(axis=0)
    return {int(ids[at]): REASONS[first[at]] for at in missing}


def _not_in(ascending: IntArray, ids: IntArray) -> BoolArray:
    """Which ids int64 (n) are not in a sorted array int64 (k > 0): bool (n); 10 times faster than np.isin."""
    at = ascending.searchsorted(ids)
    return np.not_equal(ascending.take(at, mode="clip"), ids)
