"""Scores of scoring batches: looked up in the cache, shared with a running computation, or computed."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from animora_server.errors import DeadlineUnreachable, InvalidScores
from animora_server.ranker.rank_task import ScoringBatch
from animora_server.scoring.protocols import ScoreCache, StageObserver
from animora_server.scoring.single_flight import RecentResults, SingleFlight
from animora_server.scoring.transforms import are_finite, impute_featureless
from animora_server.types import CacheStatus, FloatArray, IntArray

RECENT_SECONDS = 1.0  # longer than any look-up or write in the cache may take
MAX_RECENT_BYTES = 16 << 20


class RankKey(Protocol):
    """Makes the cache key of a user's scores for candidates in canonical order."""

    def __call__(self, model_version: str, user_id: int, post_ids: IntArray, fingerprints: IntArray) -> bytes:
        """The key; post_ids and fingerprints are int64 (k)."""
        ...


@dataclass(frozen=True, slots=True)
class CacheAccess:
    """The cache, and the function that makes its keys."""

    scores: ScoreCache
    key: RankKey


class ScoreProvider:
    """Gets the scores of scoring batches, as their cache policy says."""

    def __init__(self, cache: CacheAccess | None, stages: StageObserver) -> None:
        self._cache = cache
        self._stages = stages
        self._flights: SingleFlight[FloatArray] = SingleFlight()
        self._recent: RecentResults[FloatArray] = RecentResults(RECENT_SECONDS, MAX_RECENT_BYTES)

    async def look_up(self, batch: ScoringBatch) -> tuple[list[ScoringBatch], list[ScoringBatch]]:
        """Splits a batch: the parts that have scores now, and the parts whose scores are to be computed.

        What is to be stored is a part a task, since each task has its own key.
        """
        policy = batch.tasks[0].query.cache_policy
        if self._cache is None or not policy.writes:
            return [], [batch]
        finished = []
        sizes = batch.candidates.sizes
        if not sizes.all():  # a task without candidates needs no scores
            finished.append(batch.subset(np.flatnonzero(sizes == 0).tolist()))
            if not sizes.any():
                return finished, []
            batch = batch.subset(np.flatnonzero(sizes).tolist())
        batch.keys = self._keys(batch, self._cache)
        if not policy.reads:
            return finished, batch.split()
        started = time.perf_counter()
        found = await self._cache.scores.find(batch.keys, batch.candidates.sizes.tolist(), batch.deadline)
        self._stages.observe("cache", time.perf_counter() - started)
        cached, misses = self._split(batch, found)
        return finished + cached, misses

    async def compute(self, batch: ScoringBatch) -> None:
        """Computes the scores of a part that `look_up` returned; stores them as the cache policy says.

        Raises:
            ScoringFailed: The model cannot answer, or not before the deadline.
        """
        started = time.perf_counter()
        if not batch.keys:
            await self._compute(batch)
        elif batch.status is CacheStatus.MISS:
            batch.values = await self._compute_once(batch)
        else:
            await self._compute_and_store(batch)
        self._stages.observe("score", time.perf_counter() - started)

    @staticmethod
    def _keys(batch: ScoringBatch, cache: CacheAccess) -> list[bytes]:
        candidates, version = batch.candidates, batch.model.version
        fingerprints = batch.state.snapshot.fingerprints[candidates.rows]
        return [
            cache.key(version, task.query.user_id, candidates.post_ids[span], fingerprints[span])
            for task, span in zip(batch.tasks, candidates.slices, strict=True)
        ]

    def _split(
        self, batch: ScoringBatch, found: Sequence[FloatArray | None]
    ) -> tuple[list[ScoringBatch], list[ScoringBatch]]:
        """Splits a batch by what a look-up has found: parts with scores, and each waiting task without."""
        hits: dict[int, FloatArray] = {}
        recent: dict[int, FloatArray] = {}
        misses = []
        for position, values in enumerate(found):
            if values is not None and are_finite(values):
                hits[position] = values
            elif (computed := self._recent.find(batch.keys[position])) is not None:
                recent[position] = computed  # computed during the look-up, or not stored yet
            elif not batch.tasks[position].outcome.done():
                misses.append(batch.subset([position]))
                misses[-1].status = CacheStatus.MISS
        finished = []
        for status, values_by_position in ((CacheStatus.HIT, hits), (CacheStatus.MISS, recent)):
            if values_by_position:
                part = batch.subset(list(values_by_position))
                part.status = status
                part.values = np.concatenate(list(values_by_position.values()))
                finished.append(part)
        return finished, misses

    async def _compute_once(self, batch: ScoringBatch) -> FloatArray:
        """Computes and stores the scores of a single task, or joins the computation of its key."""
        (key,) = batch.keys
        while True:
            joined = key in self._flights
            try:
                async with asyncio.timeout_at(batch.deadline):  # it may be before the computation's
                    return await self._flights.run(key, lambda: self._compute_and_store(batch))
            except TimeoutError as error:
                raise DeadlineUnreachable from error
            except DeadlineUnreachable:
                if not joined:
                    raise
                # The deadline of the caller that started the computation has ended it. This caller's may be
                # later: it starts another one, or joins it.

    async def _compute_and_store(self, batch: ScoringBatch) -> FloatArray:
        """Computes and stores the scores of a single task."""
        assert self._cache is not None  # callers have checked
        (key,) = batch.keys
        values = await self._compute(batch)
        self._cache.scores.put(key, values)
        self._recent.add(key, values, values.nbytes)
        return values

    @staticmethod
    async def _compute(batch: ScoringBatch) -> FloatArray:
        """Sets and returns the scores of a batch, computed as one piece of device work."""
        candidates = batch.candidates
        values = await batch.model.score_all(
            batch.user_rows, candidates.sizes, candidates.rows, batch.deadline
        )
        has_features = batch.model.has_features(candidates.rows)
        if not has_features.all():
            values = np.concatenate(
                [impute_featureless(values[span], has_features[span]) for span in candidates.slices]
            )
        if not are_finite(values):
            raise InvalidScores
        batch.values = values
        return values
