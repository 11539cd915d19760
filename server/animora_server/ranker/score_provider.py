"""Scores for queries, of many at once: from the cache, or from the model."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from animora_server.batching import AnyFuture, CompletionQueue
from animora_server.errors import (
    DeadlineUnreachable,
    DeviceFault,
    InvalidScores,
    OutOfDeviceMemory,
    ScoringFailed,
)
from animora_server.ranker.candidates import Candidates
from animora_server.ranker.rank_task import RankTask, SharedCancellation
from animora_server.ranker.recent_results import RecentResults
from animora_server.scoring.protocols import ScoreCache, ScoringModel, ServingState, StageObserver
from animora_server.scoring.single_flight import SingleFlight
from animora_server.scoring.transforms import are_finite, expired, impute_featureless, logits
from animora_server.types import CachePolicy, CacheStatus, FloatArray, IntArray

MOMENT = 1.0  # seconds; a look-up or a write that takes longer has failed
MAX_RECENT_BYTES = 16 << 20
NO_VALUES = np.empty(0, np.float32)


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


@dataclass(eq=False, slots=True)
class ScoringBatch:
    """What a model is to score for queries (b) as one piece of work, and what came of it.

    Attributes:
        tasks: The queries, of which the first is due first.
        candidates: Theirs.
        user_rows: int64 (b), the users' rows in the model.
        status: Where the scores come from; HIT also while they are looked up.
        keys: What each query's scores are cached under; empty where they are not.
        values: float32 (n), the logits of all candidates, as `impute_featureless` gives them; empty while to
        come.
        failure: Why there are none.
    """

    tasks: Sequence[RankTask]
    state: ServingState
    candidates: Candidates
    model: ScoringModel
    user_rows: IntArray
    status: CacheStatus = CacheStatus.BYPASS
    keys: Sequence[bytes] = ()
    values: FloatArray = field(default_factory=lambda: NO_VALUES)
    failure: BaseException | None = None

    @property
    def deadline(self) -> float:
        """When the scores must be there, on the event loop's clock."""
        return self.tasks[0].query.score_by

    def of(self, numbers: Sequence[int]) -> "ScoringBatch":
        """That of some of its queries."""
        if len(numbers) == len(self.tasks):
            return self
        slices = self.candidates.slices
        return ScoringBatch(
            [self.tasks[number] for number in numbers],
            self.state,
            self.candidates.of(numbers),
            self.model,
            self.user_rows[numbers],
            self.status,
            [self.keys[number] for number in numbers] if self.keys else (),
            np.concatenate([self.values[slices[number]] for number in numbers]),
            self.failure,
        )

    def each(self) -> "list[ScoringBatch]":
        """Its queries, each by itself."""
        return [self.of([number]) for number in range(len(self.tasks))]

    def wanted(self) -> "ScoringBatch | None":
        """That of those who still wait for an answer; None where nobody does."""
        waiting = [number for number, task in enumerate(self.tasks) if not task.latch.gone]
        return self.of(waiting) if waiting else None


class ScoreProvider:
    """Scores of queries: looked up, shared, computed and stored, as each query wants it."""

    def __init__(self, cache: CacheAccess | None, stages: StageObserver) -> None:
        self._cache = cache
        self._stages = stages
        self._flights: SingleFlight[FloatArray] = SingleFlight()
        self._recent: RecentResults[FloatArray] = RecentResults(MOMENT, MAX_RECENT_BYTES)

    def begin(
        self, scorings: Sequence[ScoringBatch], steps: CompletionQueue[ScoringBatch]
    ) -> list[ScoringBatch]:
        """Takes the first steps of some scorings; those that have come to their end by that are returned.

        That is, they have values or a failure. Queries that were one piece may come to it in several.
        """
        started = time.perf_counter()
        if ended := [each for scoring in scorings for each in self._first_steps(scoring, steps)]:
            self._stages.observe("score", time.perf_counter() - started)
        return ended

    async def rest(self, steps: CompletionQueue[ScoringBatch]) -> AsyncIterator[list[ScoringBatch]]:
        """The others as they come to their end, those of a moment together.

        Those whose caller has gone do not come.
        """
        started = time.perf_counter()
        async for done in steps:
            stage = "cache" if done[0][0].status is CacheStatus.HIT else "score"
            self._stages.observe(stage, time.perf_counter() - started)
            ended = [each for scoring, step in done for each in self._settle(scoring, step, steps)]
            if left := [wanted for scoring in ended if (wanted := scoring.wanted())]:
                yield left

    def _first_steps(self, scoring: ScoringBatch, steps: CompletionQueue[ScoringBatch]) -> list[ScoringBatch]:
        ended = []
        for policy, numbers in self._ways(scoring).items():
            some = scoring.of(numbers)
            if policy is CachePolicy.BYPASS:
                ended += self._score(some, steps)
                continue
            some.keys = self._keys(some)
            if policy.reads:
                some.status = CacheStatus.HIT
                _await_step(some, self._find(some), steps)
            else:
                for one in some.each():
                    _await_step(one, asyncio.ensure_future(self._compute(one)), steps)
        return ended

    def _ways(self, scoring: ScoringBatch) -> Mapping[CachePolicy, Sequence[int]]:
        """Which of the queries use the cache in which way; those that have nothing to be scored do not."""
        if self._cache is None or {each.query.cache_policy for each in scoring.tasks} == {CachePolicy.BYPASS}:
            return {CachePolicy.BYPASS: range(len(scoring.tasks))}
        ways: dict[CachePolicy, list[int]] = {}
        for number, (task, size) in enumerate(
            zip(scoring.tasks, scoring.candidates.sizes.tolist(), strict=True)
        ):
            policy = task.query.cache_policy if size else CachePolicy.BYPASS
            ways.setdefault(policy, []).append(number)
        return ways

    def _keys(self, scoring: ScoringBatch) -> list[bytes]:
        assert self._cache is not None  # only called where there is one
        candidates = scoring.candidates
        fingerprints = scoring.state.snapshot.fingerprints[candidates.rows]
        return [
            self._cache.key(
                scoring.model.version, task.query.user_id, candidates.post_ids[span], fingerprints[span]
            )
            for task, span in zip(scoring.tasks, candidates.slices, strict=True)
        ]

    def _find(self, scoring: ScoringBatch) -> "asyncio.Future[list[FloatArray | None]]":
        assert self._cache is not None  # only called where there is one
        return self._cache.scores.find(scoring.keys, scoring.candidates.sizes.tolist(), scoring.deadline)

    def _score(self, scoring: ScoringBatch, steps: CompletionQueue[ScoringBatch]) -> list[ScoringBatch]:
        """Has the model score all as one piece of work; returns what has come to its end by that."""
        candidates = scoring.candidates
        try:
            step = scoring.model.score_all(
                scoring.user_rows, candidates.sizes, candidates.rows, scoring.deadline
            )
        except ScoringFailed as failure:
            return self._score_each(scoring, failure, steps)
        if step.done():
            return self._settle(scoring, step, steps)
        _await_step(scoring, step, steps)
        return []

    def _score_each(
        self, scoring: ScoringBatch, failure: BaseException, steps: CompletionQueue[ScoringBatch]
    ) -> list[ScoringBatch]:
        """Has the model score the queries of what failed as a whole one by one: it may be the fault of one.

        Returns what has come to its end: all, if it is the device's fault or the time is over.
        """
        is_nobodys = isinstance(failure, DeviceFault) and not isinstance(failure, OutOfDeviceMemory)
        if len(scoring.tasks) > 1 and not is_nobodys and not expired(scoring.deadline):
            wanted = scoring.wanted()
            return [ended for one in (wanted.each() if wanted else ()) for ended in self._score(one, steps)]
        scoring.failure = failure
        return [scoring]

    def _settle(
        self, scoring: ScoringBatch, step: AnyFuture, steps: CompletionQueue[ScoringBatch]
    ) -> list[ScoringBatch]:
        """What has come to its end with a step that is done; what is not in the cache goes on."""
        if step.cancelled():  # with its callers
            return []
        if (failure := step.exception()) is not None:
            return self._score_each(scoring, failure, steps)
        if scoring.status is CacheStatus.HIT:
            return self._take_found(scoring, step.result(), steps)
        scoring.values = step.result()
        return [scoring] if scoring.keys else _completed(scoring)  # for the cache, it is complete

    def _take_found(
        self, scoring: ScoringBatch, found: list[FloatArray | None], steps: CompletionQueue[ScoringBatch]
    ) -> list[ScoringBatch]:
        """Those that were in the cache; the others go on to be computed."""
        hits: dict[int, FloatArray] = {}
        shared: dict[int, FloatArray] = {}
        for number, values in enumerate(found):
            if values is not None and are_finite(values):
                hits[number] = values
            elif (computed := self._recent.find(scoring.keys[number])) is not None:
                # Computed while it was looked up, or not stored yet.
                shared[number] = computed
            elif not scoring.tasks[number].latch.gone:
                one = scoring.of([number])
                one.status = CacheStatus.MISS
                _await_step(one, asyncio.ensure_future(self._compute_once(one)), steps)
        ended = []
        for status, some_values in ((CacheStatus.HIT, hits), (CacheStatus.MISS, shared)):
            if some_values:
                some = scoring.of(list(some_values))
                some.status = status
                some.values = np.concatenate(list(some_values.values()))
                ended.append(some)
        return ended

    async def _compute_once(self, scoring: ScoringBatch) -> FloatArray:
        """Computes one query's and stores it, or shares the computation that runs for its key already."""
        (key,) = scoring.keys
        while True:
            joined = key in self._flights
            try:
                async with asyncio.timeout_at(scoring.deadline):  # which may be sooner than the computation's
                    return await self._flights.run(key, lambda: self._compute(scoring))
            except TimeoutError as error:
                raise DeadlineUnreachable from error
            except DeadlineUnreachable:
                if not joined:
                    raise
                # Another caller's deadline ended the computation; this one's may be later. Whoever comes
                # first begins anew, the others join again.

    async def _compute(self, scoring: ScoringBatch) -> FloatArray:
        """Computes one query's and stores it."""
        assert self._cache is not None  # only called where there is one
        (key,), (user_row,) = scoring.keys, scoring.user_rows.tolist()
        values = await logits(scoring.model, user_row, scoring.candidates.rows, scoring.deadline)
        self._cache.scores.put(key, values)
        self._recent.add(key, values, values.nbytes)
        return values


def _await_step(
    scoring: ScoringBatch, step: "asyncio.Future[Any]", steps: CompletionQueue[ScoringBatch]
) -> None:
    """Waits for the next step."""
    work = step if len(scoring.tasks) == 1 else SharedCancellation(step, len(scoring.tasks))
    for task in scoring.tasks:
        task.work = work
    steps.add(scoring, step)


def _completed(scoring: ScoringBatch) -> list[ScoringBatch]:
    """The same with its values completed where they must be: each query's by themselves."""
    has_features = scoring.model.has_features(scoring.candidates.rows)
    if has_features.all() and are_finite(scoring.values):
        return [scoring]
    each = scoring.each()
    for one in each:
        try:
            one.values = impute_featureless(one.values, one.model.has_features(one.candidates.rows))
        except InvalidScores as failure:
            one.failure = failure
    return each
