"""Makes a user's list: candidates from the catalog, scored by the model or the heuristic, best first."""

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
from animora_server.scoring.protocols import ScoringModel, ServingState
from animora_server.scoring.transforms import logits
from animora_server.settings import TimelineSettings
from animora_server.timeline.eligibility import VisibilityFilter, candidates
from animora_server.timeline.feed_orderer import FeedOrderer, RankedPosts
from animora_server.timeline.reranking import Reranking
from animora_server.types import DegradedReason, FloatArray, IntArray, RankedTimeline, RankerName

ID_BYTES = 16
NOTHING = np.empty(0, np.int64)
TTL_JITTER = 0.1  # of the time to live, so that what was made together is not due together


@fast_dataclass
class FeedKey:
    """Whom a list is for: a user, and whether it keeps posts that they have liked or commented on."""

    user_id: int
    include_seen: bool


@fast_dataclass
class _Scores:
    """Values float32 (k) and what gave them."""

    values: FloatArray
    ranker: RankerName
    model_version: str


@fast_dataclass
class _Draft:
    """A list that is being made.

    Attributes:
        rows: int64 (k), the candidates.
        now: Unix seconds that ages are counted from.
        started: `time.perf_counter()`.
    """

    rows: IntArray
    now: float
    started: float


class FeedRanker:
    """Ranks a user's whole feed.

    Args:
        heuristic: Ranks for users whom the model does not know, and where it cannot answer.
        settings: Which posts, how many, and how long a list is fresh.
        clock: Unix seconds.
    """

    def __init__(
        self, heuristic: Heuristic, settings: TimelineSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self._heuristic = heuristic
        self._settings = settings
        self._clock = clock
        self._maker = FeedOrderer(settings, heuristic)
        self._random = Random()

    @property
    def reranking(self) -> Reranking | None:
        """How lists are re-ranked; None where they are not."""
        return self._maker.reranking

    def most_candidates(self, catalog: CatalogSnapshot) -> int:
        """How many candidates a list has at most."""
        return min(len(catalog.feed.rows), self._settings.max_candidates)

    async def rank(self, state: ServingState, feed_key: FeedKey, deadline: float | None) -> RankedTimeline:
        """The list for an audience.

        Without a deadline (loop's clock) nobody waits for it: requests that have one go first.

        Raises:
            ScoringFailed: The model cannot answer, or not before the deadline.
        """
        draft = self._draft(state.snapshot, feed_key)
        user_id = feed_key.user_id
        scores = await self._score(state.snapshot, state.active, user_id, draft.rows, draft.now, deadline)
        return self._finish(state.snapshot, draft, scores)

    def rank_degraded(
        self, catalog: CatalogSnapshot, feed_key: FeedKey, reason: DegradedReason
    ) -> RankedTimeline:
        """The list for an audience by the heuristic, which stands in for the model; it is never fresh."""
        draft = self._draft(catalog, feed_key)
        snapshot = self._finish(catalog, draft, self._by_heuristic(catalog, draft.rows, draft.now))
        return replace(snapshot, degraded_reason=reason, fresh_until=snapshot.made_at)

    async def rank_newer(
        self, state: ServingState, user_id: int, snapshot: RankedTimeline, rows: IntArray, deadline: float
    ) -> RankedPosts:
        """Posts at rows int64 (k) that are newer than a list, scored as if they had been in it.

        Less those of which the model knows nothing: all of a feed must be ranked to say where they belong.

        Raises:
            ScoringFailed: The list's model cannot answer, or not before the deadline (loop's clock).
        """
        now = snapshot.made_at  # as the list's: recency of another time would not compare
        if snapshot.ranker is RankerName.HEURISTIC:
            scores = self._by_heuristic(state.snapshot, rows, now)
        else:
            model = state.resident.get(snapshot.model_version)
            if model is not None:
                rows = rows[model.has_features(rows)]
            scores = await self._score(state.snapshot, model, user_id, rows, now, deadline)
        return self._maker.order(state.snapshot, rows, scores.values, scores.ranker, now)

    def _draft(self, catalog: CatalogSnapshot, feed_key: FeedKey) -> _Draft:
        started, now = time.perf_counter(), self._clock()
        visibility = VisibilityFilter.of(
            catalog, feed_key.user_id, self._settings, feed_key.include_seen, NOTHING
        )
        return _Draft(candidates(catalog, visibility, self._settings, now), now, started)

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

    def _finish(self, catalog: CatalogSnapshot, draft: _Draft, scores: _Scores) -> RankedTimeline:
        listed = self._maker.order(catalog, draft.rows, scores.values, scores.ranker, draft.now)
        time_to_live = self._settings.ttl * self._random.uniform(1 - TTL_JITTER, 1 + TTL_JITTER)
        return RankedTimeline(
            snapshot_id=secrets.token_bytes(ID_BYTES),
            post_ids=listed.post_ids,
            scores=listed.scores,
            ranker=scores.ranker,
            model_version=scores.model_version,
            made_at=draft.now,
            fresh_until=draft.now + time_to_live,
            read_at=catalog.read_at,
            cost=time.perf_counter() - draft.started,
        )
