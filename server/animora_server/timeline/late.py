"""Late posts: older than a precomputed timeline, but not among the posts that it was ranked from."""

from collections.abc import Callable

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.settings import TimelineSettings
from animora_server.timeline.eligibility import window_start
from animora_server.types import GenerationPosts, IntArray, RankedTimeline

# The posts of the current generation; None if there is none, or if its posts are unknown.
PostsOfGeneration = Callable[[], GenerationPosts | None]
NO_ROWS = np.empty(0, np.int64)


class LatePosts:
    """Finds late posts among the posts that the server loaded when it started.

    The catalog knows which posts arrived after its load, and which were created or changed shortly before. A
    post that became visible after moderation, or after being a draft, may be neither. Comparing the loaded
    posts with the generation's finds it.

    Within an epoch the loaded posts keep their rows, so they are compared once for a generation.

    Args:
        posts: Returns the posts of the current generation.
        settings: The bounds of the candidates.
    """

    def __init__(self, posts: PostsOfGeneration, settings: TimelineSettings) -> None:
        self._posts = posts
        self._settings = settings
        self._found_for: tuple[int, bytes] | None = None  # an epoch, and a generation's id
        self._rows = NO_ROWS

    def rows(self, catalog: CatalogSnapshot, timeline: RankedTimeline, now: float) -> IntArray:
        """Catalog rows int64 (m), ascending, of the late posts that a ranked timeline lacks.

        Empty for a timeline that is not of the current generation, or whose catalog was read after this
        server's load. The rows may include posts that were deleted or grew too old since they were found.

        Args:
            catalog: The catalog snapshot of the call.
            timeline: The ranked timeline.
            now: Unix seconds.
        """
        if timeline.read_at >= catalog.loaded_at:
            return NO_ROWS
        posts = self._posts()
        if posts is None or posts.generation_id != timeline.timeline_id:
            return NO_ROWS
        found_for = (catalog.epoch, posts.generation_id)
        if found_for != self._found_for:
            self._rows = self._find(catalog, posts.post_ids, now)
            self._found_for = found_for
        return self._rows

    def _find(self, catalog: CatalogSnapshot, post_ids: IntArray, now: float) -> IntArray:
        """Catalog rows int64 (m), ascending, of the loaded candidates that are not in post_ids int64 (k)."""
        since = window_start(self._settings, now)
        rows = catalog.feed.newest(since, self._settings.max_candidates)
        rows = rows[catalog.arrived_at[rows] <= catalog.loaded_at]
        return np.sort(rows[~np.isin(catalog.post_ids[rows], post_ids, assume_unique=True)])
