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

from animora_server.batching import CompletionQueue, RequestCoalescer, call_isolating_failures
from animora_server.errors import CatalogUnavailable, DeadlineExceeded, ModelNotResident, ScoringFailed
from animora_server.ranker.candidates import Candidates, resolve
from animora_server.ranker.explaining import dropped_posts, heuristic_terms, model_terms
from animora_server.ranker.heuristic import Heuristic
from animora_server.ranker.ordering import Best, best_of_each
from animora_server.ranker.pending import Caller, Pending, SharedWork, groups, turns
from animora_server.ranker.pinning import current_pin
from animora_server.ranker.protocols import Pin, Pins, ResidentModel, StageObserver
from animora_server.ranker.relevance import degraded_reason, expired, probabilities
from animora_server.ranker.scoring import CacheAccess, Scores, Scoring
from animora_server.types import DegradedReason, RankerName, Ranking, RankQuery


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
        self._gathering: RequestCoalescer[Pending] = RequestCoalescer(self._rank_gathered)
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
        try:
            pin = current_pin(self._pins, self._max_block_age)  # one for all of them
            for number, some in enumerate(turns(asked)):
                if number:
                    await asyncio.sleep(0)  # other callers go on in between
                self._rank_together(pin, some)
        except CatalogUnavailable as error:
            return [error] * len(queries)
        except asyncio.CancelledError:
            caller.leave()
            _abandon(asked)
            raise
        return await _outcomes(asked)

    def _rank_gathered(self, asked: Sequence[Pending]) -> None:
        waiting = [pending for pending in asked if not pending.caller.gone]
        try:
            pin = current_pin(self._pins, self._max_block_age)
        except Exception as error:  # whatever it is must reach whoever asked
            _answer(waiting, error)
        else:
            self._rank_together(pin, waiting)

    def _rank_together(self, pin: Pin, asked: Sequence[Pending]) -> None:
        """Answers what can be answered at once; the rest goes on in a task."""
        steps: CompletionQueue[Scoring] = CompletionQueue()
        try:
            if ended := self._scores.begin(self._prepare(pin, asked), steps):
                self._answer_by_scores(ended)
        except Exception as error:  # whatever it is must reach whoever asked
            _give_up(asked, error)
        else:
            if steps:
                self._spawn(self._answer_the_rest(asked, steps))

    def _spawn(self, steps: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(steps)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer_the_rest(self, asked: Sequence[Pending], steps: CompletionQueue[Scoring]) -> None:
        try:
            async for ended in self._scores.rest(steps):
                self._answer_by_scores(ended)
        except Exception as error:  # whatever it is must reach whoever asked
            _give_up(asked, error)

    def _prepare(self, pin: Pin, asked: Sequence[Pending]) -> list[Scoring]:
        """What the model is to score; who is not for the model is answered."""
        started = time.perf_counter()
        scorings: list[Scoring] = []
        for group in groups(asked):
            try:
                model = _model(pin, group[0].query)
            except ModelNotResident as error:
                _answer(group, error)
                continue
            for some, prepared in call_isolating_failures(partial(self._prepare_group, pin, model), group):
                if isinstance(prepared, Exception):
                    _answer(some, prepared)
                else:
                    scorings += prepared
        self._stages.observe("candidates", time.perf_counter() - started)
        return scorings

    def _prepare_group(
        self, pin: Pin, model: ResidentModel | None, asked: Sequence[Pending]
    ) -> list[Scoring]:
        candidates = resolve(pin.snapshot, [pending.query for pending in asked])
        if model is None:
            self._by_heuristic(pin, asked, candidates, DegradedReason.NO_MODEL)
            return []
        user_rows = model.user_rows(np.array([pending.query.user_id for pending in asked]))
        scoring = Scoring(asked, pin, candidates, model, user_rows)
        if user_rows.all():
            return [scoring]
        known, unknown = np.flatnonzero(user_rows).tolist(), np.flatnonzero(user_rows == 0).tolist()
        self._by_heuristic(pin, [asked[number] for number in unknown], candidates.of(unknown), None)
        return [scoring.of(known)] if known else []

    def _answer_by_scores(self, scorings: Sequence[Scoring]) -> None:
        """Answers by the scores, or without them."""
        started = time.perf_counter()
        for scoring in scorings:
            if scoring.failure is not None:
                self._do_without(scoring, scoring.failure)
                continue
            for some, outcome in call_isolating_failures(
                partial(self._order, scoring), range(len(scoring.asked))
            ):
                if isinstance(outcome, Exception):
                    _answer(scoring.of(some).asked, outcome)
        self._stages.observe("order", time.perf_counter() - started)

    def _order(self, scoring: Scoring, numbers: Sequence[int]) -> None:
        """Answers some of the queries."""
        scoring = scoring.of(numbers)
        best, version, status = _best(scoring), scoring.model.version, scoring.status
        scores = probabilities(best.values)
        explained = []
        for number, (pending, its) in enumerate(zip(scoring.asked, best.slices, strict=True)):
            if pending.query.explain:
                explained.append(number)
                continue
            ids, dropped = best.post_ids[its], scoring.candidates.dropped[number]
            # By position: names would take as long again.
            pending.answer(Ranking(ids, scores[its], RankerName.NEUCF, version, status, None, dropped))
        if explained:
            some = scoring.of(explained)
            work = SharedWork(self._spawn(self._explain_in_turn(some.each())), len(explained))
            for pending in some.asked:
                pending.work = work

    async def _explain_in_turn(self, scorings: Sequence[Scoring]) -> None:
        """Answers queries with the terms of their scores, one by one: others use the device in between."""
        try:
            for scoring in scorings:
                (pending,) = scoring.asked
                if not pending.caller.gone:
                    await self._explain(pending, scoring)
        except Exception as error:  # whatever it is must reach whoever asked
            _answer([scoring.asked[0] for scoring in scorings], error)

    async def _explain(self, pending: Pending, scoring: Scoring) -> None:
        """Answers one query with the terms of its scores."""
        candidates, user_row = scoring.candidates, scoring.user_rows.item(0)
        try:
            best = _best(scoring)
            (its,) = best.slices
            positions, values = best.positions[its], best.values[its]
            rows = candidates.rows[positions]
            terms = await model_terms(scoring.model, user_row, rows, values, scoring.deadline)
        except Exception as error:  # whatever it is must reach whoever asked
            self._do_without(scoring, error)
            return
        pending.answer(
            Ranking(
                post_ids=best.post_ids[its],
                scores=probabilities(values),
                ranker=RankerName.NEUCF,
                model_version=scoring.model.version,
                cache=scoring.status,
                dropped=candidates.dropped[0],
                terms=terms,
                dropped_posts=dropped_posts(candidates, 0, positions),
            )
        )

    def _do_without(self, scoring: Scoring, failure: BaseException) -> None:
        """Answers where the model did not: by the heuristic, if it is not a bug, and there is time."""
        if not isinstance(failure, ScoringFailed):
            _answer(scoring.asked, failure)
            return
        in_time = []
        for number, pending in enumerate(scoring.asked):
            if expired(pending.query.deadline):
                error = DeadlineExceeded()
                error.__cause__ = failure
                pending.answer(error)
            else:
                in_time.append(number)
        if in_time:
            some = scoring.of(in_time)
            self._by_heuristic(some.pin, some.asked, some.candidates, degraded_reason(failure))

    def _by_heuristic(
        self, pin: Pin, asked: Sequence[Pending], candidates: Candidates, degraded: DegradedReason | None
    ) -> None:
        now = self._clock()
        values = self._heuristic.terms(pin.snapshot, candidates.rows, now).sum(axis=1).astype(np.float32)
        limits = [pending.query.limit for pending in asked]
        best = best_of_each(pin.snapshot, candidates, values, limits)
        for number, (pending, its) in enumerate(zip(asked, best.slices, strict=True)):
            positions, explain = best.positions[its], pending.query.explain
            rows = candidates.rows[positions]
            pending.answer(
                Ranking(
                    post_ids=best.post_ids[its],
                    scores=best.values[its],
                    ranker=RankerName.HEURISTIC,
                    degraded_reason=degraded,
                    dropped=candidates.dropped[number],
                    terms=heuristic_terms(self._heuristic, pin.snapshot, rows, now) if explain else None,
                    dropped_posts=dropped_posts(candidates, number, positions) if explain else {},
                )
            )


async def _outcomes(asked: Sequence[Pending]) -> list[Ranking | BaseException]:
    """Those of queries with one caller, who waits here and may go."""
    try:
        await asked[0].caller.all_answered()
    except asyncio.CancelledError:
        _abandon(asked)
        raise
    return [pending.outcome for pending in asked if pending.outcome is not None]


def _answer(asked: Sequence[Pending], outcome: BaseException) -> None:
    for pending in asked:
        pending.answer(outcome)


def _give_up(asked: Sequence[Pending], error: BaseException) -> None:
    """Answers those who are not answered yet, and ends what is done for them."""
    _answer(asked, error)
    _abandon(asked)


def _abandon(asked: Sequence[Pending]) -> None:
    for pending in asked:
        pending.abandon()


def _best(scoring: Scoring) -> Best:
    limits = [pending.query.limit for pending in scoring.asked]
    return best_of_each(scoring.pin.snapshot, scoring.candidates, scoring.values, limits)


def _model(pin: Pin, query: RankQuery) -> ResidentModel | None:
    if not query.model_version:
        return pin.active
    model = pin.resident.get(query.model_version)
    if model is None:
        raise ModelNotResident
    return model
