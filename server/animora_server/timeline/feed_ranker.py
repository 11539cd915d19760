"""Ranks a user's whole feed: candidates from the catalog, scored by the model or the heuristic, in order."""

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from random import Random

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import ModelUnavailable
from animora_server.fast_dataclass import fast_dataclass
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.protocols import ScoringModel
from animora_server.scoring.serving_state import ServingState
from animora_server.scoring.transforms import best_first, logits, probabilities
from animora_server.settings import TimelineSettings
from animora_server.timeline.eligibility import VisibilityFilter, candidates
from animora_server.timeline.reranking import Reranking
from animora_server.types import DegradedReason, FloatArray, IntArray, RankedTimeline, RankerName

TIMELINE_ID_BYTES = 16
TTL_JITTER = 0.1  # of the time to live, so that timelines built at one time are not due at one time

# How many bytes of Redis a ranked timeline takes: its posts, and a frame.
SCORE_BYTES = 4
ID_BYTES = 8
NARROW_ID_BYTES = 4
NARROW_SPAN = 1 << 32  # ids less than this above the smallest are stored as 4-byte offsets from it
FRAME_BYTES = 250  # the longest key, the header with the longest version name, and the checksum


@fast_dataclass
class ScoredCandidates:
    """Candidates with scores, in no order.

    Attributes:
        rows: int64 (m), in the catalog.
        values: float32 (m), finite: NeuCF's logits, or the heuristic's scores.
        ranker: Which of the two the values are from.
        model_version: The version of the model; empty for the heuristic.
    """

    rows: IntArray
    values: FloatArray
    ranker: RankerName
    model_version: str = ""


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


class FeedRanker:
    """Ranks a user's whole feed.

    Args:
        heuristic: Ranks for users whom the model does not know, and as a fallback.
        settings: Which posts, how many, in which order, and how long a ranked timeline is fresh.
        clock: Unix seconds.

    Attributes:
        heuristic: As above.
        settings: As above.
        reranking: How timelines are re-ranked; None if they are not.
    """

    def __init__(
        self, heuristic: Heuristic, settings: TimelineSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self.heuristic = heuristic
        self.settings = settings
        self.reranking = Reranking.of(settings, heuristic)
        self._clock = clock
        self._random = Random()

    def max_candidates(self, catalog: CatalogSnapshot) -> int:
        """Upper bound of the candidates of one timeline."""
        return min(len(catalog.feed.rows), self.settings.max_candidates)

    async def rank(
        self, state: ServingState, user_id: int, include_seen: bool, deadline: float | None
    ) -> RankedTimeline:
        """Builds a ranked timeline.

        Args:
            state: The serving state.
            user_id: The user.
            include_seen: Whether the timeline keeps posts that the user liked or commented on.
            deadline: On the event loop's clock. With None the scoring is background work: scoring with a
                deadline goes first.

        Raises:
            ScoringFailed: The model cannot answer, or not before the deadline.
        """
        began, now = time.perf_counter(), self._clock()
        rows = self._candidates(state.snapshot, user_id, include_seen, now)
        scored = await self._score(state.snapshot, state.active, user_id, rows, now, deadline)
        return self._timeline(state.snapshot, scored, now, began)

    def rank_by_heuristic(
        self, catalog: CatalogSnapshot, user_id: int, include_seen: bool, reason: DegradedReason
    ) -> RankedTimeline:
        """Builds a ranked timeline by the heuristic, as the fallback. It is never fresh."""
        began, now = time.perf_counter(), self._clock()
        rows = self._candidates(catalog, user_id, include_seen, now)
        timeline = self._timeline(catalog, self._score_by_heuristic(catalog, rows, now), now, began)
        return replace(timeline, degraded_reason=reason, fresh_until=timeline.made_at)

    async def rank_newer(
        self, state: ServingState, user_id: int, timeline: RankedTimeline, rows: IntArray, deadline: float
    ) -> RankedPosts:
        """Ranks newer posts as if they had been candidates of a ranked timeline.

        Posts without features are left out: their imputed score is a median over the whole feed.

        Args:
            state: The serving state.
            user_id: The user.
            timeline: The ranked timeline.
            rows: int64 (k), the newer posts' catalog rows.
            deadline: On the event loop's clock.

        Raises:
            ScoringFailed: The timeline's model cannot answer, or not before the deadline.
        """
        now = timeline.made_at  # recency must be comparable with that of the timeline's posts
        if timeline.ranker is RankerName.HEURISTIC:
            scored = self._score_by_heuristic(state.snapshot, rows, now)
        else:
            model = state.resident.get(timeline.model_version)
            if model is not None:
                rows = rows[model.has_features(rows)]
            scored = await self._score(state.snapshot, model, user_id, rows, now, deadline)
        return self._order(state.snapshot, scored, now)

    def _candidates(self, catalog: CatalogSnapshot, user_id: int, include_seen: bool, now: float) -> IntArray:
        visibility = VisibilityFilter.of(catalog, self.settings, now, user_id, include_seen)
        return candidates(visibility, self.settings.max_candidates)

    async def _score(
        self,
        catalog: CatalogSnapshot,
        model: ScoringModel | None,
        user_id: int,
        rows: IntArray,
        now: float,
        deadline: float | None,
    ) -> ScoredCandidates:
        if model is None:
            raise ModelUnavailable
        user_row = model.user_row(user_id)
        if not user_row:
            return self._score_by_heuristic(catalog, rows, now)
        values = await logits(model, user_row, rows, deadline)
        return ScoredCandidates(rows, values, RankerName.NEUCF, model.version)

    def _score_by_heuristic(self, catalog: CatalogSnapshot, rows: IntArray, now: float) -> ScoredCandidates:
        values = self.heuristic.values(catalog, rows, now)
        return ScoredCandidates(rows, values, RankerName.HEURISTIC)

    def _order(self, catalog: CatalogSnapshot, scored: ScoredCandidates, now: float) -> RankedPosts:
        return order_posts(catalog, scored, now, self.settings, self.reranking)

    def _timeline(
        self, catalog: CatalogSnapshot, scored: ScoredCandidates, now: float, began: float
    ) -> RankedTimeline:
        """The timeline of scored candidates; `began` is the `time.perf_counter()` of its build."""
        ranked = self._order(catalog, scored, now)
        time_to_live = self.settings.ttl * self._random.uniform(1 - TTL_JITTER, 1 + TTL_JITTER)
        return RankedTimeline(
            timeline_id=secrets.token_bytes(TIMELINE_ID_BYTES),
            post_ids=ranked.post_ids,
            scores=ranked.scores,
            ranker=scored.ranker,
            model_version=scored.model_version,
            made_at=now,
            fresh_until=now + time_to_live,
            read_at=catalog.read_at,
            cost=time.perf_counter() - began,
        )


def order_posts(
    catalog: CatalogSnapshot,
    scored: ScoredCandidates,
    now: float,
    settings: TimelineSettings,
    reranking: Reranking | None,
) -> RankedPosts:
    """Orders scored posts, best first, and keeps the best that a ranked timeline may hold.

    Args:
        catalog: The catalog snapshot of the call.
        scored: The posts.
        now: Unix seconds, for recency.
        settings: How many posts and bytes a ranked timeline holds.
        reranking: How timelines are re-ranked; None if they are not.
    """
    rows, values = scored.rows, scored.values
    neucf = scored.ranker is RankerName.NEUCF
    if reranking is None:
        best = best_first(values, catalog.created_at[rows], catalog.post_ids[rows], settings.max_posts)
        scores = probabilities(values[best]) if neucf else values[best]
    else:
        relevance = probabilities(values) if neucf else values
        best, scores = reranking.order(catalog, rows, relevance, now, settings.max_posts)
    kept = rows[best]
    post_ids = catalog.post_ids[kept]
    size = posts_that_fit(post_ids, settings.max_bytes)
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
