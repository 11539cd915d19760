"""Newer posts: those that a ranked timeline could not hold, since they arrived after its build, or late."""

from collections.abc import Callable

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.settings import TimelineSettings
from animora_server.timeline.eligibility import VisibilityFilter, window_start
from animora_server.types import GenerationPosts, IntArray, RankedTimeline

# The posts of the current generation; None if there is none, or if its posts are unknown.
PostsOfGeneration = Callable[[], GenerationPosts | None]
NO_ROWS = np.empty(0, np.int64)


class NewerPosts:
    """Finds the newer posts of a ranked timeline: the catalog's, and the late posts of a generation.

    The catalog knows which posts arrived after its load, and which were created or changed shortly before. A
    post that became visible after moderation, or after being a draft, may be neither: a late post. Comparing
    the posts that the server loaded when it started with those of the generation finds it.

    Within an epoch the loaded posts keep their rows, so they are compared once for a generation.

    Args:
        posts: Returns the posts of the current generation.
        settings: The bounds of the candidates.
    """

    def __init__(self, posts: PostsOfGeneration, settings: TimelineSettings) -> None:
        self._posts = posts
        self._settings = settings
        self._found_for: tuple[int, bytes] | None = None  # an epoch, and a generation's id
        self._late = NO_ROWS

    def to_merge(self, visibility: VisibilityFilter, timeline: RankedTimeline, now: float) -> IntArray:
        """Catalog rows int64 (m) of the newer posts that may be shown and that the timeline does not hold.

        Args:
            visibility: The user's filter.
            timeline: The ranked timeline.
            now: Unix seconds.
        """
        catalog = visibility.catalog
        rows = self.rows(catalog, timeline, now)
        if not len(rows):
            return rows
        post_ids = catalog.post_ids[rows]
        return rows[visibility.shown(post_ids) & ~np.isin(post_ids, timeline.post_ids)]

    def rows(self, catalog: CatalogSnapshot, timeline: RankedTimeline, now: float) -> IntArray:
        """Catalog rows int64 (m), ascending, of the newer posts; the latest `timeline.max_candidates`."""
        limit = self._settings.max_candidates
        rows = catalog.newer_than(timeline.read_at, limit)
        late = self.late_rows(catalog, timeline, now)
        return (np.union1d(late, rows) if len(late) else rows)[-limit:]

    def late_rows(self, catalog: CatalogSnapshot, timeline: RankedTimeline, now: float) -> IntArray:
        """Catalog rows int64 (m), ascending, of the late posts that a ranked timeline lacks.

        Empty for a timeline that is not of the current generation, or whose catalog was read after this
        server's load. The rows may include posts that were deleted or grew too old since they were found.
        """
        if timeline.read_at >= catalog.loaded_at:
            return NO_ROWS
        posts = self._posts()
        if posts is None or posts.generation_id != timeline.timeline_id:
            return NO_ROWS
        found_for = (catalog.epoch, posts.generation_id)
        if found_for != self._found_for:
            self._late = self._find_late(catalog, posts.post_ids, now)
            self._found_for = found_for
        return self._late

    def _find_late(self, catalog: CatalogSnapshot, post_ids: IntArray, now: float) -> IntArray:
        """Catalog rows int64 (m), ascending, of the loaded candidates that are not in post_ids int64 (k)."""
        since = window_start(self._settings, now)
        rows = catalog.feed.newest(since, self._settings.max_candidates)
        rows = rows[catalog.arrived_at[rows] <= catalog.loaded_at]
        return np.sort(rows[~np.isin(catalog.post_ids[rows], post_ids, assume_unique=True)])
