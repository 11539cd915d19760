"""From candidates and what a ranker thinks of them to a user's list."""

from animora_server.catalog import CatalogSnapshot
from animora_server.fast_dataclass import fast_dataclass
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.transforms import best_first, probabilities
from animora_server.settings import TimelineSettings
from animora_server.timeline.reranking import Reranking
from animora_server.timeline.size import posts_that_fit
from animora_server.types import FloatArray, IntArray, RankerName


@fast_dataclass
class RankedPosts:
    """Posts in order, best first.

    Attributes:
        rows: int64 (n), in the catalog.
        post_ids: int64 (n).
        scores: float32 (n), what ordered them, in the form that callers see.
    """

    rows: IntArray
    post_ids: IntArray
    scores: FloatArray


class FeedOrderer:
    """Orders candidates, and keeps the best."""

    def __init__(self, settings: TimelineSettings, heuristic: Heuristic) -> None:
        self._reranking = Reranking.of(settings, heuristic)
        self._max_posts = settings.max_posts
        self._max_bytes = settings.max_bytes

    @property
    def reranking(self) -> Reranking | None:
        """How lists are re-ranked; None where they are not."""
        return self._reranking

    def order(
        self, catalog: CatalogSnapshot, rows: IntArray, values: FloatArray, ranker: RankerName, now: float
    ) -> RankedPosts:
        """The list of some candidates.

        Args:
            catalog: The pinned one.
            rows: int64 (m), the candidates.
            values: float32 (m), finite: logits from NeuCF, the heuristic's values from the heuristic.
            ranker: Which of the two.
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
