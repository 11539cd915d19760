"""Makes a user's list: candidates from the catalog, scored by the model or the heuristic, best first."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import ModelUnavailable, ScoringFailed
from animora_server.ranker.heuristic import Heuristic
from animora_server.ranker.protocols import Pin, ResidentModel
from animora_server.ranker.relevance import degraded_reason, logits
from animora_server.settings import TimelineSettings
from animora_server.timeline.eligibility import Viewer, candidates
from animora_server.timeline.making import Listed, ListMaker
from animora_server.timeline.reranking import Reranking
from animora_server.types import DegradedReason, FloatArray, IntArray, RankerName, TimelineSnapshot

ID_BYTES = 16
NOTHING = np.empty(0, np.int64)
TTL_JITTER = 0.1  # of the time to live, so that what was made together is not due together


@dataclass(frozen=True, slots=True)
class Audience:
    """Whom a list is for: a user, and whether it keeps posts that they have liked or commented on."""

    user_id: int
    include_seen: bool


@dataclass(frozen=True, slots=True)
class _Scores:
    """Values float32 (k) and what gave them."""

    values: FloatArray
    ranker: RankerName
    model_version: str
    degraded: DegradedReason | None = None


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
        self._maker = ListMaker(settings, heuristic)
        self._random = Random()

    @property
    def reranking(self) -> Reranking | None:
        """How lists are re-ranked; None where they are not."""
        return self._maker.reranking

    async def rank(self, pin: Pin, audience: Audience, deadline: float) -> TimelineSnapshot:
        """The list for an audience, degraded where the model cannot answer by a deadline (loop's clock)."""
        started = time.perf_counter()
        rows = self._candidates(pin.snapshot, audience)
        try:
            scores = await self._score(pin.snapshot, pin.active, audience.user_id, rows, deadline)
        except ScoringFailed as failure:
            return self.rank_degraded(pin.snapshot, audience, degraded_reason(failure))
        return self._list(pin.snapshot, rows, scores, started)

    def rank_degraded(
        self, catalog: CatalogSnapshot, audience: Audience, reason: DegradedReason
    ) -> TimelineSnapshot:
        """The list for an audience by the heuristic, which stands in for the model."""
        started = time.perf_counter()
        rows = self._candidates(catalog, audience)
        return self._list(catalog, rows, self._by_heuristic(catalog, rows, reason), started)

    async def rank_newer(
        self, pin: Pin, user_id: int, snapshot: TimelineSnapshot, rows: IntArray, deadline: float
    ) -> Listed:
        """Posts at rows int64 (k) that are newer than a list, scored by what scored the list's.

        Raises:
            ScoringFailed: The list's model cannot answer, or not before the deadline (loop's clock).
        """
        if snapshot.ranker is RankerName.HEURISTIC:
            scores = self._by_heuristic(pin.snapshot, rows, None)
        else:
            model = pin.resident.get(snapshot.model_version)
            scores = await self._score(pin.snapshot, model, user_id, rows, deadline)
        return self._maker.order(pin.snapshot, rows, scores.values, scores.ranker, self._clock())

    async def _score(
        self,
        catalog: CatalogSnapshot,
        model: ResidentModel | None,
        user_id: int,
        rows: IntArray,
        deadline: float,
    ) -> _Scores:
        if model is None:
            raise ModelUnavailable
        user_row = model.user_row(user_id)
        if not user_row:
            return self._by_heuristic(catalog, rows, None)
        values = await logits(model, user_row, rows, deadline)
        return _Scores(values, RankerName.NEUCF, model.version)

    def _by_heuristic(
        self, catalog: CatalogSnapshot, rows: IntArray, degraded: DegradedReason | None
    ) -> _Scores:
        values = self._heuristic.terms(catalog, rows, self._clock()).sum(axis=1).astype(np.float32)
        return _Scores(values, RankerName.HEURISTIC, "", degraded)

    def _candidates(self, catalog: CatalogSnapshot, audience: Audience) -> IntArray:
        viewer = Viewer.of(catalog, audience.user_id, self._settings, audience.include_seen, NOTHING)
        return candidates(catalog, viewer, self._settings, self._clock())

    def _list(
        self, catalog: CatalogSnapshot, rows: IntArray, scores: _Scores, started: float
    ) -> TimelineSnapshot:
        now = self._clock()
        listed = self._maker.order(catalog, rows, scores.values, scores.ranker, now)
        return TimelineSnapshot(
            snapshot_id=secrets.token_bytes(ID_BYTES),
            post_ids=listed.post_ids,
            scores=listed.scores,
            ranker=scores.ranker,
            model_version=scores.model_version,
            made_at=now,
            fresh_until=now + self._settings.ttl * self._random.uniform(1 - TTL_JITTER, 1 + TTL_JITTER),
            read_at=catalog.read_at,
            cost=time.perf_counter() - started,
            degraded_reason=scores.degraded,
        )
