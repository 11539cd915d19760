"""Which posts a user's timeline may hold, which of a list's may be shown, and why others may not."""

from collections.abc import Mapping
from typing import Self

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.fast_dataclass import fast_dataclass
from animora_server.settings import TimelineSettings
from animora_server.types import BoolArray, DropReason, IntArray, RankedTimeline

DAY = 86_400.0  # seconds
# Why a post may be missing from a timeline; the first that applies counts.
REASONS = (
    DropReason.EXCLUDED, DropReason.UNKNOWN, DropReason.DELETED, DropReason.BLOCKED, DropReason.SEEN,
    DropReason.OWN, DropReason.TOO_OLD, DropReason.OUTRANKED,
)  # fmt: skip


@fast_dataclass
class VisibilityFilter:
    """Whose timeline it is, and what they must not or need not see.

    Attributes:
        user_id: Any signed 64-bit integer.
        own: Whether they are shown their own posts.
        related: int64 (k), ascending: authors whom they block or who block them.
        seen: int64 (s), ascending: posts to leave out because they liked or commented on them.
        excluded: int64 (e), ascending: posts to leave out because the call says so.
    """

    user_id: int
    own: bool
    related: IntArray
    seen: IntArray
    excluded: IntArray

    @classmethod
    def of(
        cls,
        catalog: CatalogSnapshot,
        user_id: int,
        settings: TimelineSettings,
        include_seen: bool,
        excluded: IntArray,
    ) -> Self:
        """A user as a catalog knows them.

        Args:
            catalog: The pinned one.
            user_id: Any signed 64-bit integer.
            settings: Say whether own posts are shown.
            include_seen: Show posts that they have liked or commented on.
            excluded: int64 (e), in any order.
        """
        nothing = np.empty(0, np.int64)
        return cls(
            user_id=user_id,
            own=settings.include_own,
            related=catalog.related_authors(user_id),
            seen=nothing if include_seen else catalog.seen_posts(user_id),
            excluded=np.sort(excluded) if len(excluded) else nothing,
        )


def window_start(settings: TimelineSettings, now: float) -> float:
    """The unix time from which on posts are in timelines."""
    return now - settings.window_days * DAY


def candidates(
    catalog: CatalogSnapshot, visibility: VisibilityFilter, settings: TimelineSettings, now: float
) -> IntArray:
    """Rows int64 (m) of the posts to rank for a list, oldest first.

    Blocks and exclusions are left to the cutting of pages: a list outlives them.
    """
    rows = catalog.feed.newest(window_start(settings, now), settings.max_candidates)
    kept = ~catalog.is_deleted(rows)  # the feed may have them a little longer
    if not visibility.own:
        kept &= catalog.author_ids[rows] != visibility.user_id
    if len(visibility.seen):
        # Marking a few rows and looking up thousands is cheaper than thousands of searches in a few.
        seen_rows = catalog.rows(visibility.seen)
        seen = np.zeros(len(catalog), np.bool_)
        seen[seen_rows[seen_rows >= 0]] = True
        kept &= ~seen[rows]
    return rows[kept]


def newer_posts(
    catalog: CatalogSnapshot,
    visibility: VisibilityFilter,
    snapshot: RankedTimeline,
    rows: IntArray,
    since: float,
) -> IntArray:
    """Rows int64 (m) of posts that came after a list was made, are not in it, and may be shown.

    Args:
        catalog: The pinned one.
        visibility: Whose list it is.
        snapshot: The list.
        rows: int64 (k), of the posts that came after it.
        since: Unix time from which on posts are in timelines.
    """
    if not len(rows):
        return rows
    post_ids = catalog.post_ids[rows]
    return rows[visible(catalog, visibility, post_ids, since) & ~np.isin(post_ids, snapshot.post_ids)]


def visible(
    catalog: CatalogSnapshot, visibility: VisibilityFilter, post_ids: IntArray, since: float
) -> BoolArray:
    """Which posts int64 (n) may be shown now: bool (n).

    Every page asks this, so it is a few array operations, and none for a set that is empty.
    """
    if not len(catalog.index):
        return np.zeros(len(post_ids), np.bool_)
    rows, shown = catalog.index.locate(post_ids)
    # Each operation costs some two microseconds of a busy server, whatever it is done to: so there are few.
    shown &= catalog.created_at.take(rows) >= since
    shown = np.greater(shown, catalog.is_deleted(rows))  # and not
    if not visibility.own or len(visibility.related):
        authors = catalog.author_ids.take(rows)
        if not visibility.own:
            shown &= authors != visibility.user_id
        if len(visibility.related):
            shown &= _missing(visibility.related, authors)
    if len(visibility.seen):
        shown &= _missing(visibility.seen, post_ids)
    if len(visibility.excluded):
        shown &= _missing(visibility.excluded, post_ids)
    return shown


def exclusion_reasons(
    catalog: CatalogSnapshot,
    visibility: VisibilityFilter,
    post_ids: IntArray,
    listed: IntArray,
    settings: TimelineSettings,
    now: float,
) -> Mapping[int, DropReason]:
    """Why posts are not in a timeline, by ascending id; those that are in it are left out.

    Args:
        catalog: The pinned one.
        visibility: Whose timeline it is.
        post_ids: int64 (n), the posts asked about, in any order.
        listed: int64 (k), the posts of the list and those merged into it.
        settings: Bound the candidates.
        now: Unix seconds.
    """
    asked = np.unique(post_ids)
    rows = catalog.rows(asked)
    known = rows >= 0
    applies = np.zeros((len(REASONS), len(asked)), np.bool_)  # a row a reason
    applies[0] = np.isin(asked, visibility.excluded)
    applies[1] = ~known
    asked_known, rows = asked[known], rows[known]
    authors = catalog.author_ids[rows]
    since = window_start(settings, now)
    in_list = np.isin(asked_known, listed)
    in_reach = np.isin(rows, catalog.feed.newest(since, settings.max_candidates))
    applies[2:, known] = (
        catalog.is_deleted(rows),
        np.isin(authors, visibility.related),
        np.isin(asked_known, visibility.seen),
        np.full(len(rows), not visibility.own) & (authors == visibility.user_id),
        (catalog.created_at[rows] < since) | ~(in_list | in_reach),
        ~in_list,
    )
    missing = np.flatnonzero(applies.any(axis=0))
    first = applies.argmax(axis=0)
    return {int(asked[at]): REASONS[first[at]] for at in missing}


def _missing(ascending: IntArray, ids: IntArray) -> BoolArray:
    """Which ids int64 (n) are not among some int64 (k > 0): bool (n), in a tenth of np.isin's time."""
    at = ascending.searchsorted(ids)
    return np.not_equal(ascending.take(at, mode="clip"), ids)
