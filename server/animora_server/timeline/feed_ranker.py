"""Ranks a user's whole feed: candidates from the catalog, scored by the model or the heuristic."""

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import ModelUnavailable
from animora_server.fast_dataclass import fast_dataclass
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.protocols import ScoringModel
from animora_server.scoring.serving_state import ServingState
from animora_server.scoring.transforms import logits
from animora_server.settings import TimelineSettings
from animora_server.timeline.eligibility import VisibilityFilter, candidates
from animora_server.timeline.feed_orderer import FeedOrderer, RankedPosts
from animora_server.timeline.reranking import Reranking
from animora_server.types import DegradedReason, FloatArray, IntArray, RankedTimeline, RankerName

ID_BYTES = 16
NO_IDS = np.empty(0, np.int64)
TTL_JITTER = 0.1  # of the time to live, so that timelines built at one time are not due at one time


@fast_dataclass
class FeedKey:
    """Whose timeline, and with which options.

    Attributes:
        user_id: Any signed 64-bit integer.
        include_seen: Whether the timeline keeps posts that the user liked or commented on.
    """

    user_id: int
    include_seen: bool


@fast_dataclass
class _Scores:
    """Scores float32 (k) of candidates, and the ranker that they are from."""

    values: FloatArray
    ranker: RankerName
    model_version: str


@fast_dataclass
class _Candidates:
    """The candidates of a timeline that is being built.

    Attributes:
        rows: int64 (k), in the catalog.
        now: Unix seconds from which ages are counted.
        started: `time.perf_counter()`.
    """

    rows: IntArray
    now: float
    started: float


class FeedRanker:
    """Ranks a user's whole feed.

    Args:
        heuristic: Ranks for users whom the model does not know, and as a fallback.
        settings: Which posts, how many, and how long a ranked timeline is fresh.
        clock: Unix seconds.
    """

    def __init__(
        self, heuristic: Heuristic, settings: TimelineSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self._heuristic = heuristic
        self._settings = settings
        self._clock = clock
        self._orderer = FeedOrderer(settings, heuristic)
        self._random = Random()

    @property
    def reranking(self) -> Reranking | None:
        """How timelines are re-ranked; None if they are not."""
        return self._orderer.reranking

    def max_candidates(self, catalog: CatalogSnapshot) -> int:
        """Upper bound of the candidates of one timeline."""
        return min(len(catalog.feed.rows), self._settings.max_candidates)

    async def rank(self, state: ServingState, feed_key: FeedKey, deadline: float | None) -> RankedTimeline:
        """Builds the ranked timeline of a feed key.

        Args:
            state: The serving state.
            feed_key: The feed key.
            deadline: On the event loop's clock. With None the scoring is background work: scoring with a
                deadline goes first.

        Raises:
            ScoringFailed: The model cannot answer, or not before the deadline.
        """
        found = self._candidates(state.snapshot, feed_key)
        user_id = feed_key.user_id
        scores = await self._score(state.snapshot, state.active, user_id, found.rows, found.now, deadline)
        return self._finish(state.snapshot, found, scores)

    def rank_by_heuristic(
        self, catalog: CatalogSnapshot, feed_key: FeedKey, reason: DegradedReason
    ) -> RankedTimeline:
        """Builds the ranked timeline of a feed key by the heuristic, as a fallback. It is never fresh."""
        found = self._candidates(catalog, feed_key)
        timeline = self._finish(catalog, found, self._by_heuristic(catalog, found.rows, found.now))
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
            scores = self._by_heuristic(state.snapshot, rows, now)
        else:
            model = state.resident.get(timeline.model_version)
            if model is not None:
                rows = rows[model.has_features(rows)]
            scores = await self._score(state.snapshot, model, user_id, rows, now, deadline)
        return self._orderer.order(state.snapshot, rows, scores.values, scores.ranker, now)

    def _candidates(self, catalog: CatalogSnapshot, feed_key: FeedKey) -> _Candidates:
        started, now = time.perf_counter(), self._clock()
        visibility = VisibilityFilter.of(
            catalog, feed_key.user_id, self._settings, feed_key.include_seen, NO_IDS
        )
        return _Candidates(candidates(catalog, visibility, self._settings, now), now, started)

    async def _score(
        self,
        catalog: CatalogSnapshot,
        model: ScoringModel | None,
        user_id: int,
        rows: IntArray,
        now: float,
        deadline: float | None,
    ) -> _Scores:
        if model is None:
            raise ModelUnavailable
        user_row = model.user_row(user_id)
        if not user_row:
            return self._by_heuristic(catalog, rows, now)
        values = await logits(model, user_row, rows, deadline)
        return _Scores(values, RankerName.NEUCF, model.version)

    def _by_heuristic(self, catalog: CatalogSnapshot, rows: IntArray, now: float) -> _Scores:
        values = self._heuristic.terms(catalog, rows, now).sum(axis=1).astype(np.float32)
        return _Scores(values, RankerName.HEURISTIC, "")

    def _finish(self, catalog: CatalogSnapshot, found: _Candidates, scores: _Scores) -> RankedTimeline:
        ranked = self._orderer.order(catalog, found.rows, scores.values, scores.ranker, found.now)
        time_to_live = self._settings.ttl * self._random.uniform(1 - TTL_JITTER, 1 + TTL_JITTER)
        return RankedTimeline(
            timeline_id=secrets.token_bytes(ID_BYTES),
            post_ids=ranked.post_ids,
            scores=ranked.scores,
            ranker=scores.ranker,
            model_version=scores.model_version,
            made_at=found.now,
            fresh_until=found.now + time_to_live,
            read_at=catalog.read_at,
            cost=time.perf_counter() - found.started,
        )
