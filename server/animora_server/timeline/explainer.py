"""What the scores of a page are made of: the ranker's terms, and those of re-ranking."""

import asyncio
from dataclasses import replace

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import ModelUnavailable, ScoringFailed
from animora_server.fast_dataclass import fast_dataclass
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.protocols import ServingState
from animora_server.scoring.terms import heuristic_terms, model_terms
from animora_server.scoring.transforms import log_odds, logits
from animora_server.timeline.feed_orderer import RankedPosts
from animora_server.timeline.reranking import Reranking
from animora_server.types import (
    BoolArray,
    FloatArray,
    IntArray,
    PageTerms,
    RankedTimeline,
    RankerName,
    Terms,
)


@fast_dataclass
class PagePosts:
    """The posts of a page, and where they come from.

    Attributes:
        snapshot: The list.
        newer: What was merged into it, if anything.
        positions: int64 (n), places in the list, and from its length on in what was merged.
        post_ids: int64 (n).
        scores: float32 (n).
    """

    snapshot: RankedTimeline
    newer: RankedPosts | None
    positions: IntArray
    post_ids: IntArray
    scores: FloatArray

    def where(self, kept: BoolArray) -> "PagePosts":
        """Those of the posts that are kept: bool (n)."""
        return replace(
            self,
            positions=self.positions[kept],
            post_ids=self.post_ids[kept],
            scores=self.scores[kept],
        )


class TimelineExplainer:
    """Explains pages.

    Args:
        heuristic: Ranks where the model does not.
        reranking: How lists are re-ranked; None where they are not.
    """

    def __init__(self, heuristic: Heuristic, reranking: Reranking | None) -> None:
        self._heuristic = heuristic
        self._reranking = reranking

    async def explain(
        self, state: ServingState, user_id: int, posts: PagePosts, deadline: float
    ) -> PageTerms | None:
        """The terms of a page's scores; None where the list's model cannot be asked any more, or not in time.

        The model's terms are those of now: a list that was ranked before a post's embeddings changed has the
        score of the old ones. The heuristic's recency is that of when the list was made.
        """
        rows = state.snapshot.rows(posts.post_ids)
        if posts.snapshot.ranker is RankerName.HEURISTIC:
            terms = heuristic_terms(self._heuristic, state.snapshot, rows, posts.snapshot.made_at)
        else:
            try:
                async with asyncio.timeout_at(deadline):
                    terms = await self._model_terms(state, user_id, rows, posts, deadline)
            except (ScoringFailed, TimeoutError):
                return None
        if self._reranking is None:
            return PageTerms(terms, None, np.zeros(len(rows), np.bool_))
        reranking, exploration = self._reranking_terms(self._reranking, state.snapshot, posts)
        return PageTerms(terms, reranking, exploration)

    async def _model_terms(
        self, state: ServingState, user_id: int, rows: IntArray, posts: PagePosts, deadline: float
    ) -> Terms:
        model = state.resident.get(posts.snapshot.model_version)
        if model is None:
            raise ModelUnavailable
        user_row = model.user_row(user_id)
        if self._reranking is None:
            values = log_odds(posts.scores)
        else:
            values = await logits(model, user_row, rows, deadline)
        return await model_terms(model, user_row, rows, values, deadline)

    @staticmethod
    def _reranking_terms(
        reranking: Reranking, catalog: CatalogSnapshot, posts: PagePosts
    ) -> tuple[Terms, BoolArray]:
        """Terms and exploration of the page's posts: an author's posts count within their own list."""
        listed = posts.snapshot
        terms = reranking.terms(catalog, listed.post_ids, listed.scores, listed.made_at)
        exploration = reranking.exploration(catalog, listed.post_ids, listed.scores)
        if posts.newer is not None:
            newer = posts.newer
            more = reranking.terms(catalog, newer.post_ids, newer.scores, listed.made_at)
            terms = Terms(terms.names, np.concatenate((terms.values, more.values)))
            explored = reranking.exploration(catalog, newer.post_ids, newer.scores)
            exploration = np.concatenate((exploration, explored))
        return Terms(terms.names, terms.values[posts.positions]), exploration[posts.positions]
