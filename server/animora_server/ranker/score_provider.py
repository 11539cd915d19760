"""Scores of scoring batches: looked up in the cache, shared with a running computation, or computed."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from animora_server.errors import (
    DeadlineUnreachable,
    DeviceFault,
    InvalidScores,
    OutOfDeviceMemory,
    ScoringFailed,
)
from animora_server.ranker.completion_queue import AnyFuture, CompletionQueue
from animora_server.ranker.rank_task import ScoringBatch
from animora_server.scoring.protocols import ScoreCache, StageObserver
from animora_server.scoring.recent_results import RecentResults
from animora_server.scoring.single_flight import SingleFlight
from animora_server.scoring.transforms import are_finite, expired, impute_featureless, logits
from animora_server.types import CachePolicy, CacheStatus, FloatArray, IntArray

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
    """Gets the scores of scoring batches, as the cache policy of each task says.

    A batch is finished when it has values or a failure. A batch may finish in parts: it is split where some
    tasks are in the cache and others are not, and where each task is retried alone after a failure.
    """

    def __init__(self, cache: CacheAccess | None, stages: StageObserver) -> None:
        self._cache = cache
        self._stages = stages
        self._flights: SingleFlight[FloatArray] = SingleFlight()
        self._recent: RecentResults[FloatArray] = RecentResults(RECENT_SECONDS, MAX_RECENT_BYTES)

    def start(
        self, batches: Sequence[ScoringBatch], steps: CompletionQueue[ScoringBatch]
    ) -> list[ScoringBatch]:
        """Starts the first step of each batch; returns the batches that are finished by that.

        A step that is still running is added to `steps`.
        """
        started = time.perf_counter()
        if finished := [part for batch in batches for part in self._start_batch(batch, steps)]:
            self._stages.observe("score", time.perf_counter() - started)
        return finished

    async def remaining(self, steps: CompletionQueue[ScoringBatch]) -> AsyncIterator[list[ScoringBatch]]:
        """The remaining batches as they finish, without the tasks whose caller no longer waits."""
        started = time.perf_counter()
        async for completed in steps:
            stage = "cache" if completed[0][0].status is CacheStatus.HIT else "score"
            self._stages.observe(stage, time.perf_counter() - started)
            finished = [part for batch, step in completed for part in self._finish_step(batch, step, steps)]
            if waiting := [part for batch in finished if (part := batch.waiting())]:
                yield waiting

    def _start_batch(self, batch: ScoringBatch, steps: CompletionQueue[ScoringBatch]) -> list[ScoringBatch]:
        finished = []
        for policy, positions in self._group_by_cache_policy(batch).items():
            part = batch.subset(positions)
            if policy is CachePolicy.BYPASS:
                finished += self._score(part, steps)
                continue
            part.keys = self._cache_keys(part)
            if policy.reads:
                part.status = CacheStatus.HIT
                _await_step(part, self._look_up(part), steps)
            else:
                for single in part.split():
                    _await_step(single, asyncio.ensure_future(self._compute(single)), steps)
        return finished

    def _group_by_cache_policy(self, batch: ScoringBatch) -> Mapping[CachePolicy, Sequence[int]]:
        """Positions of tasks by cache policy; a task without candidates bypasses the cache."""
        if self._cache is None or {task.query.cache_policy for task in batch.tasks} == {CachePolicy.BYPASS}:
            return {CachePolicy.BYPASS: range(len(batch.tasks))}
        groups: dict[CachePolicy, list[int]] = {}
        for position, (task, size) in enumerate(
            zip(batch.tasks, batch.candidates.sizes.tolist(), strict=True)
        ):
            policy = task.query.cache_policy if size else CachePolicy.BYPASS
            groups.setdefault(policy, []).append(position)
        return groups

    def _cache_keys(self, batch: ScoringBatch) -> list[bytes]:
        assert self._cache is not None  # callers have checked
        candidates = batch.candidates
        fingerprints = batch.state.snapshot.fingerprints[candidates.rows]
        return [
            self._cache.key(
                batch.model.version, task.query.user_id, candidates.post_ids[span], fingerprints[span]
            )
            for task, span in zip(batch.tasks, candidates.slices, strict=True)
        ]

    def _look_up(self, batch: ScoringBatch) -> "asyncio.Future[list[FloatArray | None]]":
        assert self._cache is not None  # callers have checked
        return self._cache.scores.find(batch.keys, batch.candidates.sizes.tolist(), batch.deadline)

    def _score(self, batch: ScoringBatch, steps: CompletionQueue[ScoringBatch]) -> list[ScoringBatch]:
        """Submits a batch to the device as one piece of work; returns what is finished by that."""
        candidates = batch.candidates
        try:
            step = batch.model.score_all(batch.user_rows, candidates.sizes, candidates.rows, batch.deadline)
        except ScoringFailed as failure:
            return self._retry_alone(batch, failure, steps)
        if step.done():
            return self._finish_step(batch, step, steps)
        _await_step(batch, step, steps)
        return []

    def _retry_alone(
        self, batch: ScoringBatch, failure: BaseException, steps: CompletionQueue[ScoringBatch]
    ) -> list[ScoringBatch]:
        """After a failed step, scores each task alone: one task may be the cause. Returns what is finished.

        There is no retry after a device fault or the deadline: the whole batch is finished with the failure.
        """
        is_device_fault = isinstance(failure, DeviceFault) and not isinstance(failure, OutOfDeviceMemory)
        if len(batch.tasks) > 1 and not is_device_fault and not expired(batch.deadline):
            waiting = batch.waiting()
            singles = waiting.split() if waiting else ()
            return [finished for single in singles for finished in self._score(single, steps)]
        batch.failure = failure
        return [batch]

    def _finish_step(
        self, batch: ScoringBatch, step: AnyFuture, steps: CompletionQueue[ScoringBatch]
    ) -> list[ScoringBatch]:
        """Takes the result of a step; returns what is finished by that."""
        if step.cancelled():  # all callers have gone
            return []
        if (failure := step.exception()) is not None:
            return self._retry_alone(batch, failure, steps)
        if batch.status is CacheStatus.HIT:
            return self._finish_look_up(batch, step.result(), steps)
        batch.values = step.result()
        return [batch] if batch.keys else _impute(batch)  # values for the cache are imputed already

    def _finish_look_up(
        self, batch: ScoringBatch, found: list[FloatArray | None], steps: CompletionQueue[ScoringBatch]
    ) -> list[ScoringBatch]:
        """Splits a batch by the result of its look-up: returns the hits, and starts to compute the misses."""
        hits: dict[int, FloatArray] = {}
        recent: dict[int, FloatArray] = {}
        for position, values in enumerate(found):
            if values is not None and are_finite(values):
                hits[position] = values
            elif (computed := self._recent.find(batch.keys[position])) is not None:
                # Computed during the look-up, or not stored yet.
                recent[position] = computed
            elif not batch.tasks[position].latch.is_cancelled:
                single = batch.subset([position])
                single.status = CacheStatus.MISS
                _await_step(single, asyncio.ensure_future(self._compute_once(single)), steps)
        finished = []
        for status, values_by_position in ((CacheStatus.HIT, hits), (CacheStatus.MISS, recent)):
            if values_by_position:
                part = batch.subset(list(values_by_position))
                part.status = status
                part.values = np.concatenate(list(values_by_position.values()))
                finished.append(part)
        return finished

    async def _compute_once(self, batch: ScoringBatch) -> FloatArray:
        """Computes and stores the scores of a single task, or joins the computation of its key.

        Raises:
            ScoringFailed: The model cannot answer, or not before this task's deadline.
        """
        (key,) = batch.keys
        while True:
            joined = key in self._flights
            try:
                async with asyncio.timeout_at(batch.deadline):  # it may be before the computation's
                    return await self._flights.run(key, lambda: self._compute(batch))
            except TimeoutError as error:
                raise DeadlineUnreachable from error
            except DeadlineUnreachable:
                if not joined:
                    raise
                # The deadline of the caller that started the computation has ended it. This caller's may be
                # later: it starts another one, or joins it.

    async def _compute(self, batch: ScoringBatch) -> FloatArray:
        """Computes and stores the scores of a single task."""
        assert self._cache is not None  # callers have checked
        (key,), (user_row,) = batch.keys, batch.user_rows.tolist()
        values = await logits(batch.model, user_row, batch.candidates.rows, batch.deadline)
        self._cache.scores.put(key, values)
        self._recent.add(key, values, values.nbytes)
        return values


def _await_step(batch: ScoringBatch, step: AnyFuture, steps: CompletionQueue[ScoringBatch]) -> None:
    batch.run(step)
    steps.add(batch, step)


def _impute(batch: ScoringBatch) -> list[ScoringBatch]:
    """The batch with imputed values; split into one a task where a value was imputed or is not finite."""
    has_features = batch.model.has_features(batch.candidates.rows)
    if has_features.all() and are_finite(batch.values):
        return [batch]
    singles = batch.split()
    for single in singles:
        try:
            single.values = impute_featureless(
                single.values, single.model.has_features(single.candidates.rows)
            )
        except InvalidScores as failure:
            single.failure = failure
    return singles
