"""The ranker: one query in, one ranking out."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from animora_server.batching import Together
from animora_server.errors import (
    DeadlineExceeded,
    ModelNotResident,
    ModelUnavailable,
    ScoringFailed,
    TooLate,
)
from animora_server.ranker.candidates import Candidates, resolve
from animora_server.ranker.explaining import dropped_posts, heuristic_terms, model_terms
from animora_server.ranker.heuristic import Heuristic
from animora_server.ranker.ordering import Unordered, best_of_each
from animora_server.ranker.pinning import current_pin
from animora_server.ranker.protocols import Pin, Pins, ResidentModel, ScoreCache
from animora_server.ranker.relevance import (
    RESERVE,
    degraded_reason,
    expired,
    logits,
)
from animora_server.ranker.single_flight import SingleFlight
from animora_server.types import (
    CacheStatus,
    DegradedReason,
    FloatArray,
    IntArray,
    RankerName,
    Ranking,
    RankQuery,
)


class StageObserver(Protocol):
    """Is told how long a stage of a ranking took."""

    def observe(self, stage: str, seconds: float) -> None:
        """Records one pass."""
        ...


class RankKey(Protocol):
    """Makes the cache key of a user's scores for candidates in canonical order."""

    def __call__(self, model_version: str, user_id: int, post_ids: IntArray, fingerprints: IntArray) -> bytes:
        """The key; post_ids and fingerprints are int64 (k)."""
        ...


@dataclass(frozen=True, slots=True)
class CacheAccess:
    """The cache and how its keys are made."""

    scores: ScoreCache
    key: RankKey


class Ranker:
    """Orders candidates with the resident model, or with the heuristic where that is meant or must do."""

    def __init__(
        self,
        pins: Pins,
        cache: CacheAccess | None,
        heuristic: Heuristic,
        max_block_age: float,
        stages: StageObserver,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pins = pins
        self._cache = cache
        self._heuristic = heuristic
        self._max_block_age = max_block_age
        self._stages = stages
        self._clock = clock
        self._flights: SingleFlight[FloatArray] = SingleFlight()
        self._resolving = Together(self._resolve)
        self._ordering = Together(best_of_each)

    async def rank(self, query: RankQuery) -> Ranking:
        """Ranks one query's candidates.

        Raises:
            CatalogUnavailable: The catalog is not loaded, or its blocks are too old.
            ModelNotResident: The query names a version that is not loaded.
            DeadlineExceeded: Not even the heuristic fits into the time that is left.
        """
        started = time.perf_counter()
        pin, candidates = await self._resolving(query)
        model = _model(pin, query)
        self._stages.observe("candidates", time.perf_counter() - started)
        try:
            if model is None:
                raise ModelUnavailable
            user_row = model.user_row(query.user_id)
            if not user_row:
                return await self._by_heuristic(pin, query, candidates, None)
            return await self._by_model(pin, query, candidates, _Scoring(model, user_row))
        except ScoringFailed as failure:
            if expired(query.deadline):
                raise DeadlineExceeded from failure
            return await self._by_heuristic(pin, query, candidates, degraded_reason(failure))

    def _resolve(self, queries: Sequence[RankQuery]) -> list[tuple[Pin, Candidates]]:
        """The current pin, and the candidates of some queries in it."""
        pin = current_pin(self._pins, self._max_block_age)
        return [(pin, candidates) for candidates in resolve(pin.snapshot, queries)]

    async def _by_model(
        self, pin: Pin, query: RankQuery, candidates: Candidates, scoring: "_Scoring"
    ) -> Ranking:
        values, status = await self._logits(pin, query, candidates, scoring)
        started = time.perf_counter()
        best = await self._ordering(Unordered(pin.snapshot, candidates, values, query.limit))
        terms = None
        if query.explain:
            terms = await model_terms(
                scoring.model,
                scoring.user_row,
                candidates.rows[best.positions],
                best.values,
                query.deadline - RESERVE,
            )
        self._stages.observe("order", time.perf_counter() - started)
        return Ranking(
            post_ids=candidates.post_ids[best.positions],
            scores=best.probabilities,
            ranker=RankerName.NEUCF,
            model_version=scoring.model.version,
            cache=status,
            dropped=candidates.dropped,
            terms=terms,
            dropped_posts=dropped_posts(candidates, best.positions) if query.explain else {},
        )

    async def _by_heuristic(
        self, pin: Pin, query: RankQuery, candidates: Candidates, degraded: DegradedReason | None
    ) -> Ranking:
        started = time.perf_counter()
        now = self._clock()
        values = self._heuristic.terms(pin.snapshot, candidates.rows, now).sum(axis=1).astype(np.float32)
        best = await self._ordering(Unordered(pin.snapshot, candidates, values, query.limit))
        rows = candidates.rows[best.positions]
        terms = heuristic_terms(self._heuristic, pin.snapshot, rows, now) if query.explain else None
        self._stages.observe("order", time.perf_counter() - started)
        return Ranking(
            post_ids=candidates.post_ids[best.positions],
            scores=best.values,
            ranker=RankerName.HEURISTIC,
            degraded_reason=degraded,
            dropped=candidates.dropped,
            terms=terms,
            dropped_posts=dropped_posts(candidates, best.positions) if query.explain else {},
        )

    async def _logits(
        self, pin: Pin, query: RankQuery, candidates: Candidates, scoring: "_Scoring"
    ) -> tuple[FloatArray, CacheStatus]:
        """Logits float32 (k) of all candidates, from the cache or the device."""
        policy = query.cache_policy
        deadline = query.deadline - RESERVE
        if self._cache is None or not len(candidates.rows) or not (policy.reads or policy.writes):
            return await self._compute(scoring, candidates, deadline), CacheStatus.BYPASS
        key = self._cache.key(
            scoring.model.version,
            query.user_id,
            candidates.post_ids,
            pin.snapshot.fingerprints[candidates.rows],
        )
        if not policy.reads:
            values = await self._compute(scoring, candidates, deadline)
            self._cache.scores.put(key, values)
            return values, CacheStatus.BYPASS
        started = time.perf_counter()
        stored = await self._cache.scores.get(key, len(candidates.rows), deadline)
        self._stages.observe("cache", time.perf_counter() - started)
        if stored is not None and np.isfinite(stored).all():
            return stored, CacheStatus.HIT
        return await self._compute_once(key, scoring, candidates, deadline), CacheStatus.MISS

    async def _compute_once(
        self, key: bytes, scoring: "_Scoring", candidates: Candidates, deadline: float
    ) -> FloatArray:
        """Computes and stores, or shares the computation that runs for this key already."""
        cache = self._cache
        assert cache is not None  # only called where there is one

        async def compute() -> FloatArray:
            values = await self._compute(scoring, candidates, deadline)
            cache.scores.put(key, values)
            return values

        while True:
            joined = key in self._flights
            try:
                async with asyncio.timeout_at(deadline):  # which may be sooner than that of whoever computes
                    return await self._flights.run(key, compute)
            except TimeoutError as error:
                raise TooLate from error
            except TooLate:
                if not joined:
                    raise
                # Another caller's deadline ended the computation; this one's may be later. Whoever comes
                # first begins anew, the others join again.

    async def _compute(self, scoring: "_Scoring", candidates: Candidates, deadline: float) -> FloatArray:
        started = time.perf_counter()
        values = await logits(scoring.model, scoring.user_row, candidates.rows, deadline)
        self._stages.observe("score", time.perf_counter() - started)
        return values


@dataclass(frozen=True, slots=True)
class _Scoring:
    """The model that answers a query, and the user's row in it."""

    model: ResidentModel
    user_row: int


def _model(pin: Pin, query: RankQuery) -> ResidentModel | None:
    if not query.model_version:
        return pin.active
    model = pin.resident.get(query.model_version)
    if model is None:
        raise ModelNotResident
    return model
