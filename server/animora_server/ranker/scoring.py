"""Scores for queries, of many at once: from the cache, or from the model."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from animora_server.batching import Settled, Settling
from animora_server.errors import InvalidScores, ScoringFailed, TooLate
from animora_server.ranker.candidates import Candidates
from animora_server.ranker.pending import Pending
from animora_server.ranker.protocols import Pin, ResidentModel, ScoreCache, StageObserver
from animora_server.ranker.relevance import RESERVE, completed, logits
from animora_server.ranker.single_flight import SingleFlight
from animora_server.types import CachePolicy, CacheStatus, FloatArray, IntArray


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
        steps: Settling[Scoring] = Settling()
        refused = [scoring for scoring in scorings if not self._begin(scoring, steps)]
        if refused:
            yield refused
        async for done in steps:
            stage = "cache" if done[0][0].status is CacheStatus.HIT else "score"
            self._stages.observe(stage, time.perf_counter() - started)
            if settled := self._settle(done, steps):
                yield settled

    def _begin(self, scoring: Scoring, steps: Settling[Scoring]) -> bool:
        """Takes a scoring's first step; False, with the failure, if the model refuses it."""
        candidates, policy = scoring.candidates, scoring.pending.query.cache_policy
        if policy is CachePolicy.BYPASS or self._cache is None or not len(candidates.rows):
            try:
                step = scoring.model.score(scoring.user_row, candidates.rows, scoring.deadline)
            except ScoringFailed as failure:
                scoring.failure = failure
                return False
            _go_on(scoring, step, steps)
            return True
        scoring.key = self._cache.key(
            scoring.model.version,
            scoring.pending.query.user_id,
            candidates.post_ids,
            scoring.pin.snapshot.fingerprints[candidates.rows],
        )
        if policy.reads:
            scoring.status = CacheStatus.HIT
            found = self._cache.scores.get(scoring.key, len(candidates.rows), scoring.deadline)
            _go_on(scoring, found, steps)
        else:
            _go_on(scoring, asyncio.ensure_future(self._compute(scoring)), steps)
        return True

    def _settle(self, done: Settled[Scoring], steps: Settling[Scoring]) -> list[Scoring]:
        """The scorings that have come to their end; what is not in the cache goes on to be computed."""
        ended: list[Scoring] = []
        found: list[Scoring] = []
        raw: list[Scoring] = []
        for scoring, step in done:
            if step.cancelled():  # with its caller
                continue
            scoring.failure = step.exception()
            if scoring.failure is not None:
                ended.append(scoring)
            elif scoring.status is not CacheStatus.HIT:
                scoring.values = step.result()
                (ended if scoring.key else raw).append(scoring)
            elif step.result() is None:
                self._miss(scoring, steps)
            else:
                scoring.values = step.result()
                found.append(scoring)
        for scoring, finite in zip(found, _are_finite(found), strict=True):
            if finite:
                ended.append(scoring)
            else:
                self._miss(scoring, steps)
        _complete(raw)
        return ended + raw

    def _miss(self, scoring: Scoring, steps: Settling[Scoring]) -> None:
        scoring.status = CacheStatus.MISS
        _go_on(scoring, asyncio.ensure_future(self._compute_once(scoring)), steps)

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


def _go_on(
    scoring: Scoring,
    step: "asyncio.Future[FloatArray] | asyncio.Future[FloatArray | None]",
    steps: Settling[Scoring],
) -> None:
    scoring.pending.work = step
    steps.add(scoring, step)


def _are_finite(scorings: Sequence[Scoring]) -> list[bool]:
    """Of each, whether all its values are finite."""
    if not scorings:
        return []
    if np.isfinite(np.concatenate([scoring.values for scoring in scorings])).all():
        return [True] * len(scorings)
    return [bool(np.isfinite(scoring.values).all()) for scoring in scorings]


def _complete(scorings: Sequence[Scoring]) -> None:
    """Completes the values that come from the model as they are, or finds them invalid."""
    rest = list(scorings)
    if rest and all(_are_finite(rest)):
        model, rows = rest[0].model, np.concatenate([scoring.candidates.rows for scoring in rest])
        if all(scoring.model is model for scoring in rest) and model.informed(rows).all():
            return
    for scoring in rest:
        try:
            scoring.values = completed(scoring.values, scoring.model.informed(scoring.candidates.rows))
        except InvalidScores as failure:
            scoring.failure = failure
