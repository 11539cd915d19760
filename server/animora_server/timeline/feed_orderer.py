"""Orders scored candidates and keeps the best: by the scores, by re-ranking, and within the size limits."""

from animora_server.catalog import CatalogSnapshot
from animora_server.fast_dataclass import fast_dataclass
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.transforms import best_first, probabilities
from animora_server.settings import TimelineSettings
from animora_server.timeline.reranking import Reranking
from animora_server.types import FloatArray, IntArray, RankerName

# How many bytes of Redis a ranked timeline takes: its posts, and a frame.
SCORE_BYTES = 4
ID_BYTES = 8
NARROW_ID_BYTES = 4
NARROW_SPAN = 1 << 32  # ids less than this above the smallest are stored as 4-byte offsets from it
FRAME_BYTES = 250  # the longest key, the header with the longest version name, and the checksum


@fast_dataclass
class RankedPosts:
    """Posts in order, best first.

    Attributes:
        rows: int64 (n), in the catalog.
        post_ids: int64 (n).
        scores: float32 (n), the scores that callers see.
    """

    rows: IntArray
    post_ids: IntArray
    scores: FloatArray


class FeedOrderer:
    """Orders candidates and keeps the best.

    Args:
        settings: Weights of re-ranking, and how many posts and bytes a ranked timeline holds.
        heuristic: Source of recency and popularity for re-ranking.
    """

    def __init__(self, settings: TimelineSettings, heuristic: Heuristic) -> None:
        self._reranking = Reranking.of(settings, heuristic)
        self._max_posts = settings.max_posts
        self._max_bytes = settings.max_bytes

    @property
    def reranking(self) -> Reranking | None:
        """How timelines are re-ranked; None if they are not."""
        return self._reranking

    def order(
        self, catalog: CatalogSnapshot, rows: IntArray, values: FloatArray, ranker: RankerName, now: float
    ) -> RankedPosts:
        """Orders candidates, best first.

        Args:
            catalog: The catalog snapshot of the call.
            rows: int64 (m), the candidates' catalog rows.
            values: float32 (m), finite: NeuCF's logits, or the heuristic's scores.
            ranker: Which of the two the values are from.
            now: Unix seconds, for recency.
        """
        neucf = ranker is RankerName.NEUCF
        if self._reranking is None:
            created_at, post_ids = catalog.created_at[rows], catalog.post_ids[rows]
            best = best_first(values, created_at, post_ids, self._max_posts)
            scores = probabilities(values[best]) if neucf else values[best]
        else:
            relevance = probabilities(values) if neucf else values
            best, scores = self._reranking.order(catalog, rows, relevance, now, self._max_posts)
        kept = rows[best]
        post_ids = catalog.post_ids[kept]
        size = posts_that_fit(post_ids, self._max_bytes)
        return RankedPosts(kept[:size], post_ids[:size], scores[:size])


def stored_bytes(post_ids: IntArray) -> int:
    """Upper bound of the bytes in Redis, key and value, of a ranked timeline with posts int64 (n)."""
    return FRAME_BYTES + len(post_ids) * _bytes_per_post(post_ids)


def posts_that_fit(post_ids: IntArray, max_bytes: int) -> int:
    """How many of the first posts int64 (n) of a ranked timeline fit into max_bytes of Redis."""
    return min(len(post_ids), max(0, max_bytes - FRAME_BYTES) // _bytes_per_post(post_ids))


def _bytes_per_post(post_ids: IntArray) -> int:
    narrow = not len(post_ids) or int(post_ids.max()) - int(post_ids.min()) < NARROW_SPAN
    return SCORE_BYTES + (NARROW_ID_BYTES if narrow else ID_BYTES)
