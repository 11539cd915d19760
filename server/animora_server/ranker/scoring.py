"""Scores for queries, of many at once: from the cache, or from the model."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from animora_server.batching import Settled, Settling
from animora_server.errors import DeviceFault, InvalidScores, OutOfDeviceMemory, ScoringFailed, TooLate
from animora_server.ranker.candidates import Candidates
from animora_server.ranker.pending import Pending, SharedWork
from animora_server.ranker.protocols import Pin, ResidentModel, ScoreCache, StageObserver
from animora_server.ranker.relevance import RESERVE, are_finite, completed, logits
from animora_server.ranker.single_flight import SingleFlight
from animora_server.types import CachePolicy, CacheStatus, FloatArray, IntArray

# Queries that are due within so many seconds are one piece of work, due at the first of them: as many seconds
# as it may take to gather them. One piece costs the queue a tenth of what they would.
DUE_TOGETHER = 0.005
MAX_GROUP_ROWS = 8192  # more would have the first of them wait for the last
MAX_GROUP_QUERIES = 256  # more keys are not looked up at once


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
class Scoring:
    """What a model is to score for a query, and what came of it.

    Attributes:
        user_row: The user's row in the model.
        status: Where the scores come from; HIT also while they are looked up.
        key: What they are cached under; empty where they are not.
        values: float32 (k), the logits of all candidates, as `completed` gives them.
        failure: Why there are none.
    """

    pending: Pending
    pin: Pin
    candidates: Candidates
    model: ResidentModel
    user_row: int
    status: CacheStatus = CacheStatus.BYPASS
    key: bytes = b""
    values: FloatArray = field(init=False)
    failure: BaseException | None = None

    @property
    def deadline(self) -> float:
        """When the scores must be there, on the event loop's clock."""
        return self.pending.query.deadline - RESERVE


class Scores:
    """Scores of queries: looked up, shared, computed and stored, as each query wants it."""

    def __init__(self, cache: CacheAccess | None, stages: StageObserver) -> None:
        self._cache = cache
        self._stages = stages
        self._flights: SingleFlight[FloatArray] = SingleFlight()

    async def of(self, scorings: Sequence[Scoring]) -> AsyncIterator[list[Scoring]]:
        """Scorings as they get their values or their failure, those of a moment together.

        One whose caller has gone does not come.
        """
        started = time.perf_counter()
        steps: Settling[list[Scoring]] = Settling()
        if refused := self._begin(scorings, steps):
            yield refused
        async for done in steps:
            stage = "cache" if done[0][0][0].status is CacheStatus.HIT else "score"
            self._stages.observe(stage, time.perf_counter() - started)
            if settled := self._settle(done, steps):
                yield settled

    def _begin(self, scorings: Sequence[Scoring], steps: Settling[list[Scoring]]) -> list[Scoring]:
        """Takes the first steps; returns those that the model refuses, with the failure."""
        to_score, to_find = [], []
        for scoring in scorings:
            policy = scoring.pending.query.cache_policy
            if policy is CachePolicy.BYPASS or self._cache is None or not len(scoring.candidates):
                to_score.append(scoring)
                continue
            scoring.key = self._cache.key(
                scoring.model.version,
                scoring.pending.query.user_id,
                scoring.candidates.post_ids,
                scoring.pin.snapshot.fingerprints[scoring.candidates.rows],
            )
            if policy.reads:
                scoring.status = CacheStatus.HIT
                to_find.append(scoring)
            else:
                _go_on([scoring], asyncio.ensure_future(self._compute(scoring)), steps)
        for group in _groups(to_find):
            _go_on(group, self._find(group), steps)
        return [refused for group in _groups(to_score) for refused in _score(group, steps)]

    def _find(self, group: list[Scoring]) -> "asyncio.Future[list[FloatArray | None]]":
        assert self._cache is not None  # only called where there is one
        keys = [scoring.key for scoring in group]
        return self._cache.scores.find(keys, list(map(_size, group)), group[0].deadline)

    def _settle(self, done: Settled[list[Scoring]], steps: Settling[list[Scoring]]) -> list[Scoring]:
        """The scorings that have come to their end; what is not in the cache goes on to be computed."""
        ended: list[Scoring] = []
        for group, step in done:
            if step.cancelled():  # with its callers
                continue
            if (failure := step.exception()) is not None:
                ended += _score_each(group, failure, steps)
            elif group[0].status is not CacheStatus.HIT:
                _take(group, step.result())
                ended += group
            else:
                ended += self._take_found(group, step.result(), steps)
        return [scoring for scoring in ended if not scoring.pending.caller.gone]

    def _take_found(
        self, group: list[Scoring], found: list[FloatArray | None], steps: Settling[list[Scoring]]
    ) -> list[Scoring]:
        """Those that were in the cache; the others go on to be computed."""
        hits = []
        for scoring, values in zip(group, found, strict=True):
            if values is not None and are_finite(values):
                scoring.values = values
                hits.append(scoring)
            elif not scoring.pending.caller.gone:
                scoring.status = CacheStatus.MISS
                _go_on([scoring], asyncio.ensure_future(self._compute_once(scoring)), steps)
        return hits

    async def _compute_once(self, scoring: Scoring) -> FloatArray:
        """Computes and stores, or shares the computation that runs for this key already."""
        while True:
            joined = scoring.key in self._flights
            try:
                async with asyncio.timeout_at(scoring.deadline):  # which may be sooner than the computation's
                    return await self._flights.run(scoring.key, lambda: self._compute(scoring))
            except TimeoutError as error:
                raise TooLate from error
            except TooLate:
                if not joined:
                    raise
                # Another caller's deadline ended the computation; this one's may be later. Whoever comes
                # first begins anew, the others join again.

    async def _compute(self, scoring: Scoring) -> FloatArray:
        """Computes and stores."""
        assert self._cache is not None  # only called where there is one
        values = await logits(scoring.model, scoring.user_row, scoring.candidates.rows, scoring.deadline)
        self._cache.scores.put(scoring.key, values)
        return values


def _go_on(group: list[Scoring], step: "asyncio.Future[Any]", steps: Settling[list[Scoring]]) -> None:
    """Waits for the next step of a group."""
    work = step if len(group) == 1 else SharedWork(step, len(group))
    for scoring in group:
        scoring.pending.work = work
    steps.add(group, step)


def _groups(scorings: Sequence[Scoring]) -> list[list[Scoring]]:
    """Those that can be one piece of work: of one model, due at about the same time, not too many.

    The first of each group is due first.
    """
    groups: list[list[Scoring]] = []
    model, due, rows = 0, 0.0, 0
    for scoring in sorted(scorings, key=_model_and_deadline):
        its_model, deadline = _model_and_deadline(scoring)
        rows += len(scoring.candidates)
        if (
            its_model != model
            or deadline > due
            or rows > MAX_GROUP_ROWS
            or len(groups[-1]) == MAX_GROUP_QUERIES
        ):
            groups.append([])
            model, due, rows = its_model, deadline + DUE_TOGETHER, len(scoring.candidates)
        groups[-1].append(scoring)
    return groups


def _model_and_deadline(scoring: Scoring) -> tuple[int, float]:
    return id(scoring.model), scoring.pending.query.deadline


def _size(scoring: Scoring) -> int:
    return len(scoring.candidates)


def _score(group: list[Scoring], steps: Settling[list[Scoring]]) -> list[Scoring]:
    """Has the model score a group as one piece of work; returns those that it refuses, with the failure."""
    user_rows, sizes = [scoring.user_row for scoring in group], list(map(_size, group))
    try:
        step = group[0].model.score_all(np.array(user_rows), np.array(sizes), _rows(group), group[0].deadline)
    except ScoringFailed as failure:
        return _score_each(group, failure, steps)
    _go_on(group, step, steps)
    return []


def _score_each(
    group: list[Scoring], failure: BaseException, steps: Settling[list[Scoring]]
) -> list[Scoring]:
    """Has the model score each of a group that failed as a whole by itself: it may be the fault of one.

    Returns those of which it is, with the failure; all, if it is the device's.
    """
    if len(group) > 1 and (not isinstance(failure, DeviceFault) or isinstance(failure, OutOfDeviceMemory)):
        waiting = [scoring for scoring in group if not scoring.pending.caller.gone]
        return [refused for scoring in waiting for refused in _score([scoring], steps)]
    for scoring in group:
        scoring.failure = failure
    return group


def _take(group: list[Scoring], values: FloatArray) -> None:
    """Gives each of a group its values, float32 (n) of all, completed where it must be.

    What was computed for the cache is complete.
    """
    start = 0
    for scoring in group:
        end = start + len(scoring.candidates)
        scoring.values = values[start:end]
        start = end
    model = group[0].model
    if group[0].key or (are_finite(values) and model.informed(_rows(group)).all()):
        return
    for scoring in group:
        try:
            scoring.values = completed(scoring.values, model.informed(scoring.candidates.rows))
        except InvalidScores as failure:
            scoring.failure = failure


def _rows(group: list[Scoring]) -> IntArray:
    return np.concatenate([scoring.candidates.rows for scoring in group])
