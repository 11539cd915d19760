"""Re-ranking: recency and popularity beside the ranker's score, variety of authors, room for new posts.

    blended = (1 - w_r - w_p) * score + w_r * recency + w_p * popularity
    score'  = blended * d^k, k the number of the same author's candidates with a higher blended value
    place i (from 0) is for exploration where floor((i + 1) * e) > floor(i * e): it takes the best remaining
    post with fewer than `exploration_below` likes and comments, or where there is none the best remaining

with score the ranker's (a probability from NeuCF), recency and popularity as in `ranker.heuristic`, both in
[0, 1]. Wherever two are equal the newer post counts as the better one, then the larger id.
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
    """The formulas' constants.

    Attributes:
        heuristic: Says what recency and popularity are.
        recency_weight: w_r, in [0, 1].
        popularity_weight: w_p, in [0, 1 - w_r].
        author_discount: d, in (0, 1].
        exploration_share: e, in [0, 0.5].
        exploration_below: Likes and comments with which a post is no longer new to people.
    """

    heuristic: Heuristic
    recency_weight: float
    popularity_weight: float
    author_discount: float
    exploration_share: float
    exploration_below: int

    @classmethod
    def of(cls, settings: TimelineSettings, heuristic: Heuristic) -> "Reranking | None":
        """The re-ranking that the settings ask for; None where it would change nothing."""
        wanted = cls(
            heuristic=heuristic,
            recency_weight=settings.recency_weight,
            popularity_weight=settings.popularity_weight,
            author_discount=settings.author_discount,
            exploration_share=settings.exploration_share,
            exploration_below=settings.exploration_below,
        )
        changes = (
            wanted.recency_weight > 0
            or wanted.popularity_weight > 0
            or wanted.author_discount < 1
            or wanted.exploration_share > 0
        )
        return wanted if changes else None

    def order(
        self, catalog: CatalogSnapshot, rows: IntArray, relevance: FloatArray, now: float, limit: int
    ) -> tuple[IntArray, FloatArray]:
        """Which candidates to keep, in order, and their scores.

        Args:
            catalog: The pinned one.
            rows: int64 (m), the candidates.
            relevance: float32 (m), the ranker's scores, in [0, 1].
            now: Unix seconds, for recency.
            limit: How many to keep at most.

        Returns:
            Positions int64 (n) in rows, and scores float32 (n).
        """
        created_at, post_ids = catalog.created_at[rows], catalog.post_ids[rows]
        scores = self._blended(catalog, rows, relevance, now)
        if self.author_discount < 1:
            # Taking the best remaining post again and again, each worth blended * d^(its author's posts
            # taken so far), takes an author's posts from their best down. So the k-th of them is worth
            # blended * d^k whenever it is taken, which only falls with k: sorting by that is the same order.
            better = better_of_same_author(catalog.author_ids[rows], best_first(scores, created_at, post_ids))
            scores = (scores * self._discounts(better)).astype(np.float32)
        if not self.exploration_share:
            best = best_first(scores, created_at, post_ids, limit)
            return best, scores[best]
        best = best_first(scores, created_at, post_ids)
        best = best[self._explored(catalog.interactions[rows[best]] < self.exploration_below, limit)]
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
        """Factors float64 (m) for so many int64 (m) better posts of the same author."""
        powers: DoubleArray = self.author_discount ** np.arange(better.max(initial=0) + 1)
        return powers[better]

    def _explored(self, fresh: BoolArray, limit: int) -> IntArray:
        """Where exploration puts posts in order, of which some are fresh: bool (m) to positions int64 (n).

        Both the fresh and the others keep their order. A place takes a fresh post because it is for
        exploration, or because the next fresh one is due anyway; taken early, it is missing where it was due.
        How many fresh posts are ahead of their due is therefore the length of a queue that grows by one at a
        place for exploration and shrinks by one, to 0 at least, where a fresh post is due.
        """
        count = min(limit, len(fresh))
        due = fresh[:count]
        change = np.cumsum(self.places(count).astype(np.int64) - due)
        # After each place. The first is never for exploration, so that the least change is 0 or less.
        ahead = change - np.minimum.accumulate(change)
        taken = np.minimum(np.cumsum(due) + ahead, np.count_nonzero(fresh))  # fresh posts so far
        takes_fresh = np.diff(taken, prepend=0) > 0
        order = np.empty(count, np.int64)
        fresh_count = np.count_nonzero(takes_fresh)
        order[takes_fresh] = np.flatnonzero(fresh)[:fresh_count]
        order[~takes_fresh] = np.flatnonzero(~fresh)[: count - fresh_count]
        return order

    def places(self, count: int) -> BoolArray:
        """Which of the first places are for exploration: bool (count)."""
        so_far: DoubleArray = np.floor(np.arange(count + 1) * self.exploration_share)
        return np.greater(so_far[1:], so_far[:-1])

    def terms(
        self, catalog: CatalogSnapshot, post_ids: IntArray, scores: FloatArray, made_at: float
    ) -> Terms:
        """What the scores of a list are made of: they add up to the score.

        Recency and the discount are as they were when the list was made. Popularity is of today's counts, and
        what the counts have changed since is in relevance, the remainder.

        Args:
            catalog: The pinned one; may be later than the list.
            post_ids: int64 (n), the list.
            scores: float32 (n), the list's.
            made_at: Unix seconds that the list was made with.
        """
        rows = catalog.rows(post_ids)
        known = np.flatnonzero(rows >= 0)
        rows = rows[known]
        values = np.zeros((len(post_ids), len(TERMS)))
        better = better_of_same_author(catalog.author_ids[rows], np.argsort(-scores[known], kind="stable"))
        blended = scores.astype(np.float64)
        # The discount of very many posts is 0 in floating point: what is left of their scores stays 0.
        blended[known] /= np.maximum(self._discounts(better), np.finfo(np.float64).tiny)
        values[known, 1] = self.recency_weight * self.heuristic.recency(catalog, rows, made_at)
        values[known, 2] = self.popularity_weight * self.heuristic.popularity(catalog, rows)
        values[:, 3] = scores - blended
        values[:, 0] = blended - values[:, 1] - values[:, 2]
        return Terms(TERMS, values.astype(np.float32))

    def exploration(self, catalog: CatalogSnapshot, post_ids: IntArray, scores: FloatArray) -> BoolArray:
        """Which posts int64 (n) of a list, with scores float32 (n), hold places for exploration: bool (n).

        A post at such a place does so if it still has few interactions, or if it is there ahead of a better
        one. What was there by its score alone and has been liked since cannot be told apart, and does not.
        """
        if not self.exploration_share:
            return np.zeros(len(post_ids), np.bool_)
        rows = catalog.rows(post_ids)
        few = np.zeros(len(post_ids), np.bool_)
        few[rows >= 0] = catalog.interactions[rows[rows >= 0]] < self.exploration_below
        ahead = scores < np.maximum.accumulate(scores[::-1])[::-1]
        return self.places(len(post_ids)) & (few | ahead)


def better_of_same_author(authors: IntArray, order: IntArray) -> IntArray:
    """How many posts of the same author come before each: int64 (m).

    Args:
        authors: int64 (m).
        order: int64 (m), the posts' positions from the best down.
    """
    count = len(authors)
    authors = authors[order]
    places = np.argsort(authors)  # each author's posts together, in any order
    grouped = authors[places]
    first = np.ones(count, np.bool_)  # of its author
    first[1:] = grouped[1:] != grouped[:-1]
    # Sorting numbers that hold author and place puts them in order; a stable sort takes far longer.
    author = np.cumsum(first) * count
    places = np.sort(author + places) - author
    at = np.arange(count)
    better = np.empty(count, np.int64)
    better[order[places]] = at - np.maximum.accumulate(np.where(first, at, 0))
    return better
