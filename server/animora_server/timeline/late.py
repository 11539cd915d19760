"""Posts that became visible late: older than a precomputed list, yet not among those it was ranked from."""

from collections.abc import Callable

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.settings import TimelineSettings
from animora_server.timeline.eligibility import window_start
from animora_server.types import GenerationPosts, IntArray, RankedTimeline

# The posts of the generation that is served; None where there is none, or where they are not known.
PostsOfGeneration = Callable[[], GenerationPosts | None]
NO_ROWS = np.empty(0, np.int64)


class LatePosts:
    """Finds late posts among those that the server loaded when it started.

    A catalog tells what arrived after its load, and what was made or changed shortly before. A post that was
    moderated, or was a draft, may be neither; the generation's posts tell that its lists lack it.

    Within an epoch the posts of the load keep their rows, so they are compared once for a generation.

    Args:
        posts: Gives the posts of the generation.
        settings: Bound the candidates.
    """

    def __init__(self, posts: PostsOfGeneration, settings: TimelineSettings) -> None:
        self._posts = posts
        self._settings = settings
        self._found_for: tuple[int, bytes] | None = None  # an epoch, and a generation's id
        self._rows = NO_ROWS

    def rows(self, catalog: CatalogSnapshot, snapshot: RankedTimeline, now: float) -> IntArray:
        """Rows int64 (m), ascending, of the late posts that a list lacks.

        There are none for a list that is not of the generation, or that was read after the load. Posts that
        were deleted, or grew too old, since they were found are among them.

        Args:
            catalog: The pinned one.
            snapshot: The list.
            now: Unix seconds.
        """
        if snapshot.read_at >= catalog.loaded_at:
            return NO_ROWS
        posts = self._posts()
        if posts is None or posts.generation_id != snapshot.snapshot_id:
            return NO_ROWS
        found_for = (catalog.epoch, posts.generation_id)
        if found_for != self._found_for:
            self._rows = self._find(catalog, posts.post_ids, now)
            self._found_for = found_for
        return self._rows

    def _find(self, catalog: CatalogSnapshot, post_ids: IntArray, now: float) -> IntArray:
        """Rows int64 (m), ascending, of the load's candidates that are not among posts int64 (k)."""
        since = window_start(self._settings, now)
        rows = catalog.feed.newest(since, self._settings.max_candidates)
        rows = rows[catalog.arrived_at[rows] <= catalog.loaded_at]
        return np.sort(rows[~np.isin(catalog.post_ids[rows], post_ids, assume_unique=True)])
