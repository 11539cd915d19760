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
from animora_server.errors import CatalogUnavailable, DeadlineExpired, ModelNotResident, ScoringFailed
from animora_server.ranker.candidates import Candidates, filter_candidates
from animora_server.ranker.explaining import dropped_posts, heuristic_terms, model_terms
from animora_server.ranker.rank_task import (
    CompletionLatch,
    RankTask,
    SharedCancellation,
    group_by_model_and_deadline,
    split_into_turns,
)
from animora_server.ranker.score_provider import CacheAccess, ScoreProvider, ScoringBatch
from animora_server.ranker.top_k import TopK, top_k
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.protocols import ScoringModel, ServingState, ServingStateSource, StageObserver
from animora_server.scoring.serving_state import current_state
from animora_server.scoring.transforms import degraded_reason, expired, probabilities
from animora_server.types import DegradedReason, RankedCandidates, RankerName, RankQuery


class CandidateRanker:
    """Orders candidates with the resident model, or with the heuristic where that is meant or must do."""

    def __init__(
        self,
        states: ServingStateSource,
        cache: CacheAccess | None,
        heuristic: Heuristic,
        max_block_age: float,
        stages: StageObserver,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._states = states
        self._scores = ScoreProvider(cache, stages)
        self._heuristic = heuristic
        self._max_block_age = max_block_age
        self._stages = stages
        self._clock = clock
        self._gathering: RequestCoalescer[RankTask] = RequestCoalescer(self._rank_gathered)
        self._tasks: set[asyncio.Task[None]] = set()

    async def rank(self, query: RankQuery) -> RankedCandidates:
        """Ranks one query's candidates, together with others that are asked for at about the same time.

        Raises:
            CatalogUnavailable: The catalog is not loaded, or its blocks are too old.
            ModelNotResident: The query names a version that is not loaded.
            DeadlineExpired: Not even the heuristic fits into the time that is left.
        """
        task = RankTask(query, CompletionLatch(1))
        self._gathering.add(task)
        (outcome,) = await _outcomes([task])
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def rank_all(self, queries: Sequence[RankQuery]) -> list[RankedCandidates | BaseException]:
        """What `rank` returns or raises for each of some queries."""
        if not queries:
            return []
        latch = CompletionLatch(len(queries))
        tasks = [RankTask(query, latch) for query in queries]
        try:
            state = current_state(self._states, self._max_block_age)  # one for all of them
            for number, some in enumerate(split_into_turns(tasks)):
                if number:
                    await asyncio.sleep(0)  # other callers go on in between
                self._rank_together(state, some)
        except CatalogUnavailable as error:
            return [error] * len(queries)
        except asyncio.CancelledError:
            latch.leave()
            _abandon(tasks)
            raise
        return await _outcomes(tasks)

    def _rank_gathered(self, tasks: Sequence[RankTask]) -> None:
        waiting = [task for task in tasks if not task.latch.gone]
        try:
            state = current_state(self._states, self._max_block_age)
        except Exception as error:  # whatever it is must reach whoever asked
            _answer(waiting, error)
        else:
            self._rank_together(state, waiting)

    def _rank_together(self, state: ServingState, tasks: Sequence[RankTask]) -> None:
        """Answers what can be answered at once; the rest goes on in a task."""
        steps: CompletionQueue[ScoringBatch] = CompletionQueue()
        try:
            if ended := self._scores.begin(self._prepare(state, tasks), steps):
                self._answer_by_scores(ended)
        except Exception as error:  # whatever it is must reach whoever asked
            _give_up(tasks, error)
        else:
            if steps:
                self._spawn(self._answer_the_rest(tasks, steps))

    def _spawn(self, steps: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(steps)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer_the_rest(self, tasks: Sequence[RankTask], steps: CompletionQueue[ScoringBatch]) -> None:
        try:
            async for ended in self._scores.rest(steps):
                self._answer_by_scores(ended)
        except Exception as error:  # whatever it is must reach whoever asked
            _give_up(tasks, error)

    def _prepare(self, state: ServingState, tasks: Sequence[RankTask]) -> list[ScoringBatch]:
        """What the model is to score; who is not for the model is answered."""
        started = time.perf_counter()
        scorings: list[ScoringBatch] = []
        for group in group_by_model_and_deadline(tasks):
            try:
                model = _model(state, group[0].query)
            except ModelNotResident as error:
                _answer(group, error)
                continue
            for some, prepared in call_isolating_failures(partial(self._prepare_group, state, model), group):
                if isinstance(prepared, Exception):
                    _answer(some, prepared)
                else:
                    scorings += prepared
        self._stages.observe("candidates", time.perf_counter() - started)
        return scorings

    def _prepare_group(
        self, state: ServingState, model: ScoringModel | None, tasks: Sequence[RankTask]
    ) -> list[ScoringBatch]:
        candidates = filter_candidates(state.snapshot, [task.query for task in tasks])
        if model is None:
            self._by_heuristic(state, tasks, candidates, DegradedReason.NO_MODEL)
            return []
        user_rows = model.user_rows(np.array([task.query.user_id for task in tasks]))
        scoring = ScoringBatch(tasks, state, candidates, model, user_rows)
        if user_rows.all():
            return [scoring]
        known, unknown = np.flatnonzero(user_rows).tolist(), np.flatnonzero(user_rows == 0).tolist()
        self._by_heuristic(state, [tasks[number] for number in unknown], candidates.of(unknown), None)
        return [scoring.of(known)] if known else []

    def _answer_by_scores(self, scorings: Sequence[ScoringBatch]) -> None:
        """Answers by the scores, or without them."""
        started = time.perf_counter()
        for scoring in scorings:
            if scoring.failure is not None:
                self._fall_back(scoring, scoring.failure)
                continue
            for some, outcome in call_isolating_failures(
                partial(self._order, scoring), range(len(scoring.tasks))
            ):
                if isinstance(outcome, Exception):
                    _answer(scoring.of(some).tasks, outcome)
        self._stages.observe("order", time.perf_counter() - started)

    def _order(self, scoring: ScoringBatch, numbers: Sequence[int]) -> None:
        """Answers some of the queries."""
        scoring = scoring.of(numbers)
        best, version, status = _best(scoring), scoring.model.version, scoring.status
        scores = probabilities(best.values)
        explained = []
        for number, (task, span) in enumerate(zip(scoring.tasks, best.slices, strict=True)):
            if task.query.explain:
                explained.append(number)
                continue
            ids, dropped = best.post_ids[span], scoring.candidates.dropped[number]
            # By position: names would take as long again.
            task.answer(RankedCandidates(ids, scores[span], RankerName.NEUCF, version, status, None, dropped))
        if explained:
            some = scoring.of(explained)
            work = SharedCancellation(self._spawn(self._explain_in_turn(some.each())), len(explained))
            for task in some.tasks:
                task.work = work

    async def _explain_in_turn(self, scorings: Sequence[ScoringBatch]) -> None:
        """Answers queries with the terms of their scores, one by one: others use the device in between."""
        try:
            for scoring in scorings:
                (task,) = scoring.tasks
                if not task.latch.gone:
                    await self._explain(task, scoring)
        except Exception as error:  # whatever it is must reach whoever asked
            _answer([scoring.tasks[0] for scoring in scorings], error)

    async def _explain(self, task: RankTask, scoring: ScoringBatch) -> None:
        """Answers one query with the terms of its scores."""
        candidates, user_row = scoring.candidates, scoring.user_rows.item(0)
        try:
            best = _best(scoring)
            (span,) = best.slices
            positions, values = best.positions[span], best.values[span]
            rows = candidates.rows[positions]
            terms = await model_terms(scoring.model, user_row, rows, values, scoring.deadline)
        except Exception as error:  # whatever it is must reach whoever asked
            self._fall_back(scoring, error)
            return
        task.answer(
            RankedCandidates(
                post_ids=best.post_ids[span],
                scores=probabilities(values),
                ranker=RankerName.NEUCF,
                model_version=scoring.model.version,
                cache=scoring.status,
                dropped=candidates.dropped[0],
                terms=terms,
                dropped_posts=dropped_posts(candidates, 0, positions),
            )
        )

    def _fall_back(self, scoring: ScoringBatch, failure: BaseException) -> None:
        """Answers where the model did not: by the heuristic, if it is not a bug, and there is time."""
        if not isinstance(failure, ScoringFailed):
            _answer(scoring.tasks, failure)
            return
        in_time = []
        for number, task in enumerate(scoring.tasks):
            if expired(task.query.deadline):
                error = DeadlineExpired()
                error.__cause__ = failure
                task.answer(error)
            else:
                in_time.append(number)
        if in_time:
            some = scoring.of(in_time)
            self._by_heuristic(some.state, some.tasks, some.candidates, degraded_reason(failure))

    def _by_heuristic(
        self,
        state: ServingState,
        tasks: Sequence[RankTask],
        candidates: Candidates,
        degraded: DegradedReason | None,
    ) -> None:
        now = self._clock()
        values = self._heuristic.terms(state.snapshot, candidates.rows, now).sum(axis=1).astype(np.float32)
        limits = [task.query.limit for task in tasks]
        best = top_k(state.snapshot, candidates, values, limits)
        for number, (task, span) in enumerate(zip(tasks, best.slices, strict=True)):
            positions, explain = best.positions[span], task.query.explain
            rows = candidates.rows[positions]
            task.answer(
                RankedCandidates(
                    post_ids=best.post_ids[span],
                    scores=best.values[span],
                    ranker=RankerName.HEURISTIC,
                    degraded_reason=degraded,
                    dropped=candidates.dropped[number],
                    terms=heuristic_terms(self._heuristic, state.snapshot, rows, now) if explain else None,
                    dropped_posts=dropped_posts(candidates, number, positions) if explain else {},
                )
            )


async def _outcomes(tasks: Sequence[RankTask]) -> list[RankedCandidates | BaseException]:
    """Those of queries with one caller, who waits here and may go."""
    try:
        await tasks[0].latch.all_answered()
    except asyncio.CancelledError:
        _abandon(tasks)
        raise
    return [task.outcome for task in tasks if task.outcome is not None]


def _answer(tasks: Sequence[RankTask], outcome: BaseException) -> None:
    for task in tasks:
        task.answer(outcome)


def _give_up(tasks: Sequence[RankTask], error: BaseException) -> None:
    """Answers those who are not answered yet, and ends what is done for them."""
    _answer(tasks, error)
    _abandon(tasks)


def _abandon(tasks: Sequence[RankTask]) -> None:
    for task in tasks:
        task.abandon()


def _best(scoring: ScoringBatch) -> TopK:
    limits = [task.query.limit for task in scoring.tasks]
    return top_k(scoring.state.snapshot, scoring.candidates, scoring.values, limits)


def _model(state: ServingState, query: RankQuery) -> ScoringModel | None:
    if not query.model_version:
        return state.active
    model = state.resident.get(query.model_version)
    if model is None:
        raise ModelNotResident
    return model
