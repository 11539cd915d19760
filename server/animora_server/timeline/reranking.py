"""Re-ranking: blends recency and popularity into the score, discounts repeated authors, explores new posts.

    blended = (1 - w_r - w_p) * score + w_r * recency + w_p * popularity
    score'  = blended * d^k, k the number of the same author's candidates with a higher blended value
    position i (from 0) is for exploration where floor((i + 1) * e) > floor(i * e): it takes the best
    remaining post with fewer than `exploration_below` likes and comments, or else the best remaining post

where score is the ranker's (a probability from NeuCF); recency and popularity are as in `scoring.heuristic`,
both in [0, 1]. Of two posts with equal values the newer is the better one, then the one with the larger id.
"""

from dataclasses import dataclass

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.transforms import best_first
from animora_server.settings import TimelineSettings
from animora_server.types import BoolArray, DoubleArray, FloatArray, IntArray, Terms

TERMS = ("relevance", "recency", "popularity", "author_diversity")


@dataclass(frozen=True, slots=True)
class Reranking:
    """Re-ranking with the constants of the formulas.

    Attributes:
        heuristic: Computes recency and popularity.
        recency_weight: w_r, in [0, 1].
        popularity_weight: w_p, in [0, 1 - w_r].
        author_discount: d, in (0, 1].
        exploration_share: e, in [0, 0.5].
        exploration_below: Number of likes and comments from which on a post is not explored.
    """

    heuristic: Heuristic
    recency_weight: float
    popularity_weight: float
    author_discount: float
    exploration_share: float
    exploration_below: int

    @classmethod
    def of(cls, settings: TimelineSettings, heuristic: Heuristic) -> "Reranking | None":
        """The re-ranking of the settings; None if it would change nothing."""
        reranking = cls(
            heuristic=heuristic,
            recency_weight=settings.recency_weight,
            popularity_weight=settings.popularity_weight,
            author_discount=settings.author_discount,
            exploration_share=settings.exploration_share,
            exploration_below=settings.exploration_below,
        )
        changes = (
            reranking.recency_weight > 0
            or reranking.popularity_weight > 0
            or reranking.author_discount < 1
            or reranking.exploration_share > 0
        )
        return reranking if changes else None

    def order(
        self, catalog: CatalogSnapshot, rows: IntArray, relevance: FloatArray, now: float, limit: int
    ) -> tuple[IntArray, FloatArray]:
        """Selects and orders the best candidates.

        Args:
            catalog: The catalog snapshot of the call.
            rows: int64 (m), the candidates' catalog rows.
            relevance: float32 (m), the ranker's scores, in [0, 1].
            now: Unix seconds, for recency.
            limit: Maximum number of candidates to keep.

        Returns:
            Positions int64 (n) in rows, and scores float32 (n).
        """
        created_at, post_ids = catalog.created_at[rows], catalog.post_ids[rows]
        scores = self._blended(catalog, rows, relevance, now)
        if self.author_discount < 1:
            # Greedy selection by blended * d^(posts of the same author selected so far) selects an author's
            # posts from the best down. So the author's k-th post has the value blended * d^k whenever it is
            # selected, and sorting by that value gives the same order.
            better = better_of_same_author(catalog.author_ids[rows], best_first(scores, created_at, post_ids))
            scores = (scores * self._discounts(better)).astype(np.float32)
        if not self.exploration_share:
            best = best_first(scores, created_at, post_ids, limit)
            return best, scores[best]
        best = best_first(scores, created_at, post_ids)
        best = best[self._with_exploration(catalog.interactions[rows[best]] < self.exploration_below, limit)]
        return best, scores[best]

    def _blended(
        self, catalog: CatalogSnapshot, rows: IntArray, relevance: FloatArray, now: float
    ) -> FloatArray:
        blended = (1 - self.recency_weight - self.popularity_weight) * relevance.astype(np.float64)
        if self.recency_weight:
            blended += self.recency_weight * self.heuristic.recency(catalog, rows, now)
        if self.popularity_weight:
            blended += self.popularity_weight * self.heuristic.popularity(catalog, rows)
        return blended.astype(np.float32)

    def _discounts(self, better: IntArray) -> DoubleArray:
        """Factors float64 (m) for posts with int64 (m) better posts of the same author."""
        powers: DoubleArray = self.author_discount ** np.arange(better.max(initial=0) + 1)
        return powers[better]

    def _with_exploration(self, fresh: BoolArray, limit: int) -> IntArray:
        """The order with exploration, positions int64 (n), of sorted posts of which some are fresh, bool (m).

        Fresh posts keep their order, and so do the rest. A position takes a fresh post because it is for
        exploration, or because the next fresh post is due there anyway; a post that is taken early is missing
        where it was due. So the number of fresh posts that were taken early is the length of a queue, which
        grows by one at a position for exploration, and shrinks by one, down to 0, where a fresh post is due.
        """
        count = min(limit, len(fresh))
        due = fresh[:count]
        change = np.cumsum(self.exploration_positions(count).astype(np.int64) - due)
        # After each position. The first is never for exploration, so the minimum is 0 or less.
        ahead = change - np.minimum.accumulate(change)
        taken = np.minimum(np.cumsum(due) + ahead, np.count_nonzero(fresh))  # fresh posts so far
        takes_fresh = np.diff(taken, prepend=0) > 0
        order = np.empty(count, np.int64)
        fresh_count = np.count_nonzero(takes_fresh)
        order[takes_fresh] = np.flatnonzero(fresh)[:fresh_count]
        order[~takes_fresh] = np.flatnonzero(~fresh)[: count - fresh_count]
        return order

    def exploration_positions(self, count: int) -> BoolArray:
        """Which of the first positions are for exploration: bool (count)."""
        so_far: DoubleArray = np.floor(np.arange(count + 1) * self.exploration_share)
        return np.greater(so_far[1:], so_far[:-1])

    def terms(
        self, catalog: CatalogSnapshot, post_ids: IntArray, scores: FloatArray, made_at: float
    ) -> Terms:
        """The terms of a timeline's scores; a post's terms add up to its score.

        Recency and the discount are of the time when the timeline was built. Popularity is of the current
        counts; relevance is the remainder, and so includes what the counts have changed since.

        Args:
            catalog: The catalog snapshot of the call; it may be later than the timeline.
            post_ids: int64 (n), the timeline.
            scores: float32 (n), the timeline's.
            made_at: Unix seconds when the timeline was built.
        """
        rows = catalog.rows(post_ids)
        known = np.flatnonzero(rows >= 0)
        rows = rows[known]
        values = np.zeros((len(post_ids), len(TERMS)))
        better = better_of_same_author(catalog.author_ids[rows], np.argsort(-scores[known], kind="stable"))
        blended = scores.astype(np.float64)
        # The discount of very many posts underflows to 0; their scores of 0 stay 0.
        blended[known] /= np.maximum(self._discounts(better), np.finfo(np.float64).tiny)
        values[known, 1] = self.recency_weight * self.heuristic.recency(catalog, rows, made_at)
        values[known, 2] = self.popularity_weight * self.heuristic.popularity(catalog, rows)
        values[:, 3] = scores - blended
        values[:, 0] = blended - values[:, 1] - values[:, 2]
        return Terms(TERMS, values.astype(np.float32))

    def exploration(self, catalog: CatalogSnapshot, post_ids: IntArray, scores: FloatArray) -> BoolArray:
        """Which posts int64 (n) of a timeline, with scores float32 (n), are explored: bool (n).

        A post at a position for exploration counts as explored if it still has few interactions, or if a
        better post comes after it. A post that was explored without passing a better one and has many
        interactions by now does not count.
        """
        if not self.exploration_share:
            return np.zeros(len(post_ids), np.bool_)
        rows = catalog.rows(post_ids)
        few = np.zeros(len(post_ids), np.bool_)
        few[rows >= 0] = catalog.interactions[rows[rows >= 0]] < self.exploration_below
        ahead = scores < np.maximum.accumulate(scores[::-1])[::-1]
        return self.exploration_positions(len(post_ids)) & (few | ahead)


def better_of_same_author(authors: IntArray, order: IntArray) -> IntArray:
    """For each post the number of better posts of the same author: int64 (m).

    Args:
        authors: int64 (m).
        order: int64 (m), the posts' positions, best first.
    """
    count = len(authors)
    authors = authors[order]
    grouped_positions = np.argsort(authors)  # groups posts by author, in any order within a group
    grouped = authors[grouped_positions]
    first = np.ones(count, np.bool_)  # first of a group
    first[1:] = grouped[1:] != grouped[:-1]
    # Sorts each group by encoding group and place in one number; a stable argsort is far slower.
    author = np.cumsum(first) * count
    grouped_positions = np.sort(author + grouped_positions) - author
    at = np.arange(count)
    better = np.empty(count, np.int64)
    better[order[grouped_positions]] = at - np.maximum.accumulate(np.where(first, at, 0))
    return better
