"""Explains the scores of a page: the terms of the ranker and of re-ranking."""

import asyncio
from dataclasses import replace

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import ModelUnavailable, ScoringFailed
from animora_server.fast_dataclass import fast_dataclass
from animora_server.scoring.serving_state import ServingState
from animora_server.scoring.terms import heuristic_terms, model_terms
from animora_server.scoring.transforms import log_odds, logits
from animora_server.timeline.feed_ranker import FeedRanker, RankedPosts
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
    """The posts of a page, with the ranked timeline and the newer posts that they come from.

    Attributes:
        timeline: The ranked timeline.
        newer: The newer posts that were merged into the page, if any.
        positions: int64 (n), positions in the timeline; from the timeline's length on, in the newer posts.
        post_ids: int64 (n).
        scores: float32 (n).
    """

    timeline: RankedTimeline
    newer: RankedPosts | None
    positions: IntArray
    post_ids: IntArray
    scores: FloatArray

    def where(self, kept: BoolArray) -> "PagePosts":
        """The posts for which kept, bool (n), is true."""
        return replace(
            self,
            positions=self.positions[kept],
            post_ids=self.post_ids[kept],
            scores=self.scores[kept],
        )


async def explain_page(
    ranker: FeedRanker, state: ServingState, user_id: int, posts: PagePosts, deadline: float
) -> PageTerms | None:
    """The terms of a page's scores; None if the timeline's model is not resident or too late.

    The model's terms come from the current embeddings, while the scores come from those of the time when
    the timeline was built. The heuristic's recency is of the time when the timeline was built.

    Args:
        ranker: What ranked the timeline: the heuristic, and how timelines are re-ranked.
        state: The serving state of the call.
        user_id: The user.
        posts: The page, n posts.
        deadline: On the event loop's clock.
    """
    rows = state.snapshot.rows(posts.post_ids)
    if posts.timeline.ranker is RankerName.HEURISTIC:
        terms = heuristic_terms(ranker.heuristic, state.snapshot, rows, posts.timeline.made_at)
    else:
        try:
            async with asyncio.timeout_at(deadline):
                terms = await _model_terms(ranker.reranking, state, user_id, rows, posts, deadline)
        except (ScoringFailed, TimeoutError):
            return None
    if ranker.reranking is None:
        return PageTerms(terms, None, np.zeros(len(rows), np.bool_))
    return PageTerms(terms, *_reranking_terms(ranker.reranking, state.snapshot, posts))


async def _model_terms(
    reranking: Reranking | None,
    state: ServingState,
    user_id: int,
    rows: IntArray,
    posts: PagePosts,
    deadline: float,
) -> Terms:
    model = state.resident.get(posts.timeline.model_version)
    if model is None:
        raise ModelUnavailable
    user_row = model.user_row(user_id)
    # Re-ranking changes the scores, so the logits cannot be read back from them.
    values = log_odds(posts.scores) if reranking is None else await logits(model, user_row, rows, deadline)
    return await model_terms(model, user_row, rows, values, deadline)


def _reranking_terms(
    reranking: Reranking, catalog: CatalogSnapshot, posts: PagePosts
) -> tuple[Terms, BoolArray]:
    """Terms (n) of the page's posts, and whether they are explored, bool (n).

    The author discount of newer posts counts newer posts only, that of the timeline's the timeline's.
    """
    timeline = posts.timeline
    terms = reranking.terms(catalog, timeline.post_ids, timeline.scores, timeline.made_at)
    exploration = reranking.exploration(catalog, timeline.post_ids, timeline.scores)
    if posts.newer is not None:
        newer = posts.newer
        more = reranking.terms(catalog, newer.post_ids, newer.scores, timeline.made_at)
        terms = Terms(terms.names, np.concatenate((terms.values, more.values)))
        explored = reranking.exploration(catalog, newer.post_ids, newer.scores)
        exploration = np.concatenate((exploration, explored))
    return Terms(terms.names, terms.values[posts.positions]), exploration[posts.positions]
