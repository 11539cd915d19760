"""The ranker: queries in, rankings out.

Queries that arrive together go through every step together: that is a call of NumPy or of compiled code for
all of them instead of one for each. Each has its own deadline, its own failures, and its answer as soon as
that is there.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import numpy as np

from animora_server.batching import Gathering, together
from animora_server.errors import DeadlineExceeded, ModelNotResident, ScoringFailed
from animora_server.ranker.candidates import Candidates, resolve
from animora_server.ranker.explaining import dropped_posts, heuristic_terms, model_terms
from animora_server.ranker.heuristic import Heuristic
from animora_server.ranker.ordering import Best, best_of_each
from animora_server.ranker.pending import Caller, Pending
from animora_server.ranker.pinning import current_pin
from animora_server.ranker.protocols import Pin, Pins, ResidentModel, StageObserver
from animora_server.ranker.relevance import degraded_reason, expired
from animora_server.ranker.scoring import CacheAccess, Scores, Scoring
from animora_server.types import DegradedReason, RankerName, Ranking, RankQuery, Terms


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
        self._scores = Scores(cache, stages)
        self._heuristic = heuristic
        self._max_block_age = max_block_age
        self._stages = stages
        self._clock = clock
        self._gathering: Gathering[Pending] = Gathering(self._begin)
        self._tasks: set[asyncio.Task[None]] = set()

    async def rank(self, query: RankQuery) -> Ranking:
        """Ranks one query's candidates, together with others that are asked for at about the same time.

        Raises:
            CatalogUnavailable: The catalog is not loaded, or its blocks are too old.
            ModelNotResident: The query names a version that is not loaded.
            DeadlineExceeded: Not even the heuristic fits into the time that is left.
        """
        pending = Pending(query, Caller(1))
        self._gathering.add(pending)
        (outcome,) = await _outcomes([pending])
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def rank_all(self, queries: Sequence[RankQuery]) -> list[Ranking | BaseException]:
        """What `rank` returns or raises for each of some queries."""
        if not queries:
            return []
        caller = Caller(len(queries))
        asked = [Pending(query, caller) for query in queries]
        self._begin(asked)
        return await _outcomes(asked)

    def _begin(self, asked: Sequence[Pending]) -> None:
        self._spawn(self._rank_together(asked))

    def _spawn(self, steps: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(steps)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _rank_together(self, asked: Sequence[Pending]) -> None:
        try:
            async for scorings in self._scores.of(self._prepare(asked)):
                self._order(scorings)
        except Exception as error:  # whatever it is must reach whoever asked
            for pending in asked:
                pending.answer(error)

    def _prepare(self, asked: Sequence[Pending]) -> list[Scoring]:
        """What the model is to score; who is not for the model is answered."""
        started = time.perf_counter()
        pin = current_pin(self._pins, self._max_block_age)
        asked = [pending for pending in asked if not pending.caller.gone]
        found = together(partial(resolve, pin.snapshot), [pending.query for pending in asked])
        scorings = []
        for pending, candidates in zip(asked, found, strict=True):
            if isinstance(candidates, Exception):
                pending.answer(candidates)
                continue
            try:
                model = _model(pin, pending.query)
            except ModelNotResident as error:
                pending.answer(error)
                continue
            user_row = model.user_row(pending.query.user_id) if model else 0
            if model and user_row:
                scorings.append(Scoring(pending, pin, candidates, model, user_row))
            else:
                reason = None if model else DegradedReason.NO_MODEL
                self._by_heuristic(pin, pending, candidates, reason)
        self._stages.observe("candidates", time.perf_counter() - started)
        return scorings

    def _order(self, scorings: Sequence[Scoring]) -> None:
        """Answers by the scores, or without them."""
        started = time.perf_counter()
        scored = []
        for scoring in scorings:
            if scoring.failure is None:
                scored.append(scoring)
            else:
                self._do_without(scoring, scoring.failure)
        for scoring, best in zip(scored, together(_best_of_each, scored), strict=True):
            if isinstance(best, Exception):
                scoring.pending.answer(best)
            elif scoring.pending.query.explain:
                scoring.pending.work = self._spawn(self._explain(scoring, best))
            else:
                scoring.pending.answer(_ranking(scoring, best))
        self._stages.observe("order", time.perf_counter() - started)

    async def _explain(self, scoring: Scoring, best: Best) -> None:
        rows = scoring.candidates.rows[best.positions]
        try:
            terms = await model_terms(scoring.model, scoring.user_row, rows, best.values, scoring.deadline)
        except Exception as error:  # whatever it is must reach whoever asked
            self._do_without(scoring, error)
        else:
            scoring.pending.answer(_ranking(scoring, best, terms))

    def _do_without(self, scoring: Scoring, failure: BaseException) -> None:
        """Answers where the model did not: by the heuristic, if it is not a bug, and there is time."""
        pending = scoring.pending
        if not isinstance(failure, ScoringFailed):
            pending.answer(failure)
        elif expired(pending.query.deadline):
            error = DeadlineExceeded()
            error.__cause__ = failure
            pending.answer(error)
        else:
            self._by_heuristic(scoring.pin, pending, scoring.candidates, degraded_reason(failure))

    def _by_heuristic(
        self, pin: Pin, pending: Pending, candidates: Candidates, degraded: DegradedReason | None
    ) -> None:
        query, now = pending.query, self._clock()
        values = self._heuristic.terms(pin.snapshot, candidates.rows, now).sum(axis=1).astype(np.float32)
        (best,) = best_of_each(pin.snapshot, [candidates], [values], [query.limit])
        rows = candidates.rows[best.positions]
        terms = heuristic_terms(self._heuristic, pin.snapshot, rows, now) if query.explain else None
        pending.answer(
            Ranking(
                post_ids=best.post_ids,
                scores=best.values,
                ranker=RankerName.HEURISTIC,
                degraded_reason=degraded,
                dropped=candidates.dropped,
                terms=terms,
                dropped_posts=dropped_posts(candidates, best.positions) if query.explain else {},
            )
        )


async def _outcomes(asked: Sequence[Pending]) -> list[Ranking | BaseException]:
    """Those of queries with one caller, who waits here and may go."""
    try:
        await asked[0].caller.wait()
    except asyncio.CancelledError:
        for pending in asked:
            pending.abandon()
        raise
    return [pending.outcome for pending in asked if pending.outcome is not None]


def _best_of_each(scorings: Sequence[Scoring]) -> list[Best]:
    """The best of those that have one pin, as they came together."""
    return best_of_each(
        scorings[0].pin.snapshot,
        [scoring.candidates for scoring in scorings],
        [scoring.values for scoring in scorings],
        [scoring.pending.query.limit for scoring in scorings],
    )


def _model(pin: Pin, query: RankQuery) -> ResidentModel | None:
    if not query.model_version:
        return pin.active
    model = pin.resident.get(query.model_version)
    if model is None:
        raise ModelNotResident
    return model


def _ranking(scoring: Scoring, best: Best, terms: Terms | None = None) -> Ranking:
    """The best of what a model scored, with their terms where they were asked for."""
    dropped, version = scoring.candidates.dropped, scoring.model.version
    gone = {} if terms is None else dropped_posts(scoring.candidates, best.positions)
    ids, scores = best.post_ids, best.probabilities
    # By position: names would take as long again.
    return Ranking(ids, scores, RankerName.NEUCF, version, scoring.status, None, dropped, terms, gone)
