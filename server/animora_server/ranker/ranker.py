"""The ranker: queries in, rankings out.

Queries that arrive within a few turns of the event loop are coalesced and go through every step together:
one call of NumPy or of compiled code serves all of them. Each query keeps its own deadline and outcome, and
is answered as soon as its scores are there.

    rank, rank_all ─▶ _start_ranking: filter candidates, start the look-ups and the scoring
                       ├─▶ _answer_scored: what is finished already
                       └─▶ _finish_ranking, a task: what finishes later
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import numpy as np

from animora_server.errors import CatalogUnavailable, DeadlineExpired, ModelNotResident, ScoringFailed
from animora_server.ranker.candidates import Candidates, filter_candidates
from animora_server.ranker.coalescer import RequestCoalescer
from animora_server.ranker.completion_queue import CompletionQueue
from animora_server.ranker.isolation import call_isolating_failures
from animora_server.ranker.rank_task import (
    CompletionLatch,
    RankTask,
    ScoringBatch,
    group_by_model_and_deadline,
    split_into_turns,
)
from animora_server.ranker.score_provider import CacheAccess, ScoreProvider
from animora_server.ranker.top_k import TopK, top_k
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.protocols import ScoringModel, StageObserver
from animora_server.scoring.serving_state import ServingState, ServingStateSource, current_state
from animora_server.scoring.terms import heuristic_terms, model_terms
from animora_server.scoring.transforms import degraded_reason, expired, probabilities
from animora_server.types import DegradedReason, RankedCandidates, RankerName, RankQuery


class CandidateRanker:
    """Orders candidates by the scores of a model, or by the heuristic.

    The heuristic ranks users that the model does not know, and is the fallback where the model has no scores
    in time.

    Args:
        states: The current serving state.
        cache: The cache of scores; None for none.
        heuristic: The heuristic's formula.
        max_block_age: Seconds after which blocks that could not be refreshed are too old.
        stages: Observes how long each stage takes.
        clock: Unix time in seconds, for the heuristic.
    """

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
        self._coalescer: RequestCoalescer[RankTask] = RequestCoalescer(self._rank_coalesced)
        self._running: set[asyncio.Task[None]] = set()

    async def rank(self, query: RankQuery) -> RankedCandidates:
        """Ranks one query's candidates, coalesced with other queries that arrive at about the same time.

        Raises:
            CatalogUnavailable: The catalog is not loaded, or its blocks are too old.
            ModelNotResident: The query names a version that is not loaded.
            DeadlineExpired: The time that is left is too short even for the heuristic.
        """
        task = RankTask(query, CompletionLatch(1))
        self._coalescer.add(task)
        (outcome,) = await _wait_for_outcomes([task])
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def rank_all(self, queries: Sequence[RankQuery]) -> list[RankedCandidates | BaseException]:
        """Ranks several queries of one caller; returns for each what `rank` would return or raise."""
        if not queries:
            return []
        latch = CompletionLatch(len(queries))
        tasks = [RankTask(query, latch) for query in queries]
        try:
            state = current_state(self._states, self._max_block_age)  # the same for all queries of a call
            for number, turn in enumerate(split_into_turns(tasks)):
                if number:
                    await asyncio.sleep(0)  # other callers run in between
                self._start_ranking(state, turn)
        except CatalogUnavailable as error:
            return [error] * len(queries)
        except asyncio.CancelledError:
            latch.cancel()
            _abandon_all(tasks)
            raise
        return await _wait_for_outcomes(tasks)

    def _rank_coalesced(self, tasks: Sequence[RankTask]) -> None:
        waiting = [task for task in tasks if not task.latch.is_cancelled]
        try:
            state = current_state(self._states, self._max_block_age)
        except Exception as error:  # any error belongs to the callers
            _complete_all(waiting, error)
        else:
            self._start_ranking(state, waiting)

    def _start_ranking(self, state: ServingState, tasks: Sequence[RankTask]) -> None:
        """Answers what can be answered at once; a task of the event loop answers what remains."""
        steps: CompletionQueue[ScoringBatch] = CompletionQueue()
        try:
            if finished := self._scores.start(self._prepare_batches(state, tasks), steps):
                self._answer_scored(finished)
        except Exception as error:  # any error belongs to the callers
            _fail_all(tasks, error)
        else:
            if steps:
                self._spawn(self._finish_ranking(tasks, steps))

    async def _finish_ranking(self, tasks: Sequence[RankTask], steps: CompletionQueue[ScoringBatch]) -> None:
        try:
            async for finished in self._scores.remaining(steps):
                self._answer_scored(finished)
        except Exception as error:  # any error belongs to the callers
            _fail_all(tasks, error)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def _prepare_batches(self, state: ServingState, tasks: Sequence[RankTask]) -> list[ScoringBatch]:
        """Groups tasks into batches for the model, and answers the tasks that need no model."""
        started = time.perf_counter()
        batches: list[ScoringBatch] = []
        for group in group_by_model_and_deadline(tasks):
            try:
                model = _find_model(state, group[0].query.model_version)
            except ModelNotResident as error:
                _complete_all(group, error)
                continue
            for part, prepared in call_isolating_failures(partial(self._prepare_batch, state, model), group):
                if isinstance(prepared, Exception):
                    _complete_all(part, prepared)
                elif prepared is not None:
                    batches.append(prepared)
        self._stages.observe("candidates", time.perf_counter() - started)
        return batches

    def _prepare_batch(
        self, state: ServingState, model: ScoringModel | None, tasks: Sequence[RankTask]
    ) -> ScoringBatch | None:
        """Filters candidates; returns the batch of users that the model knows, answers the other tasks."""
        candidates = filter_candidates(state.snapshot, [task.query for task in tasks])
        if model is None:
            self._answer_by_heuristic(state, tasks, candidates, DegradedReason.NO_MODEL)
            return None
        user_rows = model.user_rows(np.array([task.query.user_id for task in tasks]))
        batch = ScoringBatch(tasks, state, candidates, model, user_rows)
        if user_rows.all():
            return batch
        known, cold = np.flatnonzero(user_rows).tolist(), np.flatnonzero(user_rows == 0).tolist()
        self._answer_by_heuristic(
            state, [tasks[position] for position in cold], candidates.subset(cold), None
        )
        return batch.subset(known) if known else None

    def _answer_scored(self, batches: Sequence[ScoringBatch]) -> None:
        """Answers finished batches: by their scores, or by the fallback where scoring failed."""
        started = time.perf_counter()
        for batch in batches:
            if batch.failure is not None:
                self._fall_back(batch, batch.failure)
                continue
            for positions, outcome in call_isolating_failures(
                partial(self._order, batch), range(len(batch.tasks))
            ):
                if isinstance(outcome, Exception):
                    _complete_all(batch.subset(positions).tasks, outcome)
        self._stages.observe("order", time.perf_counter() - started)

    def _order(self, batch: ScoringBatch, positions: Sequence[int]) -> None:
        """Orders and answers the tasks at these positions; those with `explain` are answered by a task."""
        batch = batch.subset(positions)
        best, version, status = _top_k(batch), batch.model.version, batch.status
        scores = probabilities(best.values)
        explained = []
        for position, (task, span) in enumerate(zip(batch.tasks, best.slices, strict=True)):
            if task.query.explain:
                explained.append(position)
                continue
            ids, dropped = best.post_ids[span], batch.candidates.dropped[position]
            # By position: keyword arguments would take as long again.
            task.complete(
                RankedCandidates(ids, scores[span], RankerName.NEUCF, version, status, None, dropped)
            )
        if explained:
            part = batch.subset(explained)
            part.run(self._spawn(self._explain_one_by_one(part.split())))

    async def _explain_one_by_one(self, batches: Sequence[ScoringBatch]) -> None:
        """Answers single tasks with explain terms, in sequence: other work uses the device in between."""
        try:
            for batch in batches:
                (task,) = batch.tasks
                if not task.latch.is_cancelled:
                    await self._explain(task, batch)
        except Exception as error:  # any error belongs to the callers
            _complete_all([batch.tasks[0] for batch in batches], error)

    async def _explain(self, task: RankTask, batch: ScoringBatch) -> None:
        """Answers the task of a single batch with explain terms."""
        candidates, user_row = batch.candidates, batch.user_rows.item(0)
        try:
            best = _top_k(batch)
            (span,) = best.slices
            positions, values = best.positions[span], best.values[span]
            rows = candidates.rows[positions]
            terms = await model_terms(batch.model, user_row, rows, values, batch.deadline)
        except Exception as error:  # any error belongs to the caller
            self._fall_back(batch, error)
            return
        task.complete(
            RankedCandidates(
                post_ids=best.post_ids[span],
                scores=probabilities(values),
                ranker=RankerName.NEUCF,
                model_version=batch.model.version,
                cache=batch.status,
                dropped=candidates.dropped[0],
                terms=terms,
                dropped_posts=candidates.drop_reasons(0, positions),
            )
        )

    def _fall_back(self, batch: ScoringBatch, failure: BaseException) -> None:
        """Answers by the heuristic where scoring failed; a bug, or an expired deadline, is an error."""
        if not isinstance(failure, ScoringFailed):
            _complete_all(batch.tasks, failure)
            return
        in_time = []
        for position, task in enumerate(batch.tasks):
            if expired(task.query.deadline):
                error = DeadlineExpired()
                error.__cause__ = failure
                task.complete(error)
            else:
                in_time.append(position)
        if in_time:
            part = batch.subset(in_time)
            self._answer_by_heuristic(part.state, part.tasks, part.candidates, degraded_reason(failure))

    def _answer_by_heuristic(
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
            task.complete(
                RankedCandidates(
                    post_ids=best.post_ids[span],
                    scores=best.values[span],
                    ranker=RankerName.HEURISTIC,
                    degraded_reason=degraded,
                    dropped=candidates.dropped[number],
                    terms=heuristic_terms(self._heuristic, state.snapshot, rows, now) if explain else None,
                    dropped_posts=candidates.drop_reasons(number, positions) if explain else {},
                )
            )


async def _wait_for_outcomes(tasks: Sequence[RankTask]) -> list[RankedCandidates | BaseException]:
    """Waits for the tasks of one caller; abandons them if the caller is cancelled."""
    try:
        await tasks[0].latch.completed()
    except asyncio.CancelledError:
        _abandon_all(tasks)
        raise
    return [task.outcome for task in tasks if task.outcome is not None]


def _complete_all(tasks: Sequence[RankTask], outcome: BaseException) -> None:
    for task in tasks:
        task.complete(outcome)


def _fail_all(tasks: Sequence[RankTask], error: BaseException) -> None:
    """Cancels what runs for the tasks, and completes those that have no outcome with the error."""
    _abandon_all(tasks)
    _complete_all(tasks, error)


def _abandon_all(tasks: Sequence[RankTask]) -> None:
    for task in tasks:
        task.abandon()


def _top_k(batch: ScoringBatch) -> TopK:
    limits = [task.query.limit for task in batch.tasks]
    return top_k(batch.state.snapshot, batch.candidates, batch.values, limits)


def _find_model(state: ServingState, version: str) -> ScoringModel | None:
    """The model of a version, the active one for an empty name; None where none is active.

    Raises:
        ModelNotResident: The version is not loaded.
    """
    if not version:
        return state.active
    model = state.resident.get(version)
    if model is None:
        raise ModelNotResident
    return model
