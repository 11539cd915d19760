"""The ranker: queries in, rankings out.

Queries that arrive within a few turns of the event loop are coalesced into scoring batches. A batch goes
through every step as a whole: one call of NumPy or of native code serves all its queries.

    rank, rank_all ─▶ _rank_batch: filter candidates, look up scores
                       ├─▶ _answer: top-k of what has scores
                       └─▶ _compute: scores by the model, then _answer

A step that fails for a batch is repeated for each query alone, so a query never fails because of another
(`_run_isolating_failures`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import numpy as np

from animora_server.batching import RequestCoalescer
from animora_server.degradation import degraded_reason
from animora_server.errors import (
    CallError,
    CatalogUnavailable,
    DeadlineExpired,
    ModelUnavailable,
    ScoringFailed,
    is_device_fault,
)
from animora_server.ranker.rank_task import RankTask, ScoringBatch, group_into_batches
from animora_server.ranker.score_provider import CacheAccess, ScoreProvider
from animora_server.ranker.top_k import TopK, top_k
from animora_server.scoring.arms import Arms
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.protocols import StageObserver
from animora_server.scoring.serving_state import ServingStateHolder
from animora_server.scoring.terms import heuristic_terms, model_terms
from animora_server.scoring.transforms import expired, probabilities
from animora_server.types import DegradedReason, RankedCandidates, RankerName, RankQuery

Step = Callable[[ScoringBatch], Awaitable[None]]


class CandidateRanker:
    """Orders candidates by the scores of a model, or by the heuristic.

    The heuristic ranks users that the model does not know, and is the fallback where the model has no scores
    in time.

    Args:
        states: Holds the serving state.
        cache: The cache of scores; None for none.
        heuristic: The heuristic's formula.
        stages: Observes how long each stage takes.
        arms: The arms of the experiments; None without experiments.
        clock: Unix time in seconds, for the heuristic.
    """

    def __init__(
        self,
        states: ServingStateHolder,
        cache: CacheAccess | None,
        heuristic: Heuristic,
        stages: StageObserver,
        arms: Arms | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._states = states
        self._scores = ScoreProvider(cache, stages)
        self._heuristic = heuristic
        self._stages = stages
        self._arms = arms
        self._clock = clock
        self._coalescer: RequestCoalescer[RankTask] = RequestCoalescer(self._start_batches)

    async def rank(self, query: RankQuery) -> RankedCandidates:
        """Ranks one query's candidates, coalesced with other queries that arrive at about the same time.

        Raises:
            CatalogUnavailable: The catalog is not loaded, or its blocks are too old.
            ModelNotResident: The query names a version that is not loaded.
            DeadlineExpired: The time that is left is too short even for the heuristic.
        """
        task = RankTask(query, asyncio.get_running_loop().create_future())
        self._coalescer.add(task)
        try:
            outcome = await task.outcome
        except asyncio.CancelledError:
            task.abandon()
            raise
        if isinstance(outcome, BaseException):
            try:
                raise outcome
            finally:
                del outcome, task  # else the error and this frame would wait for the garbage collector
        return outcome

    async def rank_all(self, queries: Sequence[RankQuery]) -> list[RankedCandidates | BaseException]:
        """Ranks several queries of one caller; returns for each what `rank` would return or raise."""
        loop = asyncio.get_running_loop()
        tasks = [RankTask(query, loop.create_future()) for query in queries]
        try:
            state = self._states.current()
        except CatalogUnavailable as error:
            return [error] * len(queries)
        batches = group_into_batches(state, tasks, self._arms)
        if len(batches) == 1:  # the usual case; a task of its own would cost 2 % of a call
            await self._drive(batches[0])
        else:
            async with asyncio.TaskGroup() as drivers:
                for batch in batches:
                    drivers.create_task(self._drive(batch))
                    await asyncio.sleep(0)  # one batch a turn of the event loop: other callers run in between
        return [task.outcome.result() for task in tasks]

    def _start_batches(self, tasks: Sequence[RankTask]) -> None:
        """Starts to rank the queries of several callers that the coalescer has collected."""
        waiting = [task for task in tasks if not task.outcome.cancelled()]
        try:
            state = self._states.current()
        except CatalogUnavailable as error:
            for task in waiting:
                task.complete(error)
            return
        loop = asyncio.get_running_loop()
        for batch in group_into_batches(state, waiting, self._arms):
            batch.driver = loop.create_task(self._drive(batch))
            for task in batch.tasks:
                task.batch = batch

    async def _drive(self, batch: ScoringBatch) -> None:
        """Ranks a batch from its first step to its last."""
        try:
            await self._run_isolating_failures(self._rank_batch, batch)
        except Exception as error:  # a bug outside the steps
            for task in batch.tasks:
                task.complete(error)
        finally:
            for task in batch.tasks:
                task.outcome.cancel()  # no effect on an outcome that is set

    async def _run_isolating_failures(self, step: Step, batch: ScoringBatch) -> None:
        """Runs a step for a batch; if it fails, for each of its tasks alone.

        A task that fails alone is answered by the heuristic where scoring failed, else by the error. After a
        failure that a task alone would share, such as a device fault, nothing is repeated.
        """
        try:
            await step(batch)
        except Exception as failure:  # any error belongs to the caller of the query
            waiting = batch.waiting()
            if waiting is None:
                return
            if len(batch.tasks) > 1 and _may_succeed_alone(failure, batch.deadline):
                await _in_parallel([self._run_isolating_failures(step, single) for single in waiting.split()])
            elif isinstance(failure, ScoringFailed):
                await self._run_isolating_failures(partial(self._fall_back, failure), waiting)
            else:
                for task in waiting.tasks:
                    task.complete(failure)

    async def _rank_batch(self, batch: ScoringBatch) -> None:
        """Filters candidates, looks up scores, computes those that are missing, and answers each part."""
        started = time.perf_counter()
        try:
            batch.filter()
            user_rows = batch.find_users()
        finally:
            self._stages.observe("candidates", time.perf_counter() - started)
        if not user_rows.all():
            self._answer_by_heuristic(batch.subset(np.flatnonzero(user_rows == 0).tolist()), None)
            if not user_rows.any():
                return
            batch = batch.subset(np.flatnonzero(user_rows).tolist())
        finished, missing = await self._scores.look_up(batch)
        await _in_parallel(
            [
                *(self._run_isolating_failures(self._answer, part) for part in finished),
                *(self._run_isolating_failures(self._compute, part) for part in missing),
            ]
        )

    async def _compute(self, batch: ScoringBatch) -> None:
        """Has the model score a batch, then answers."""
        await self._scores.compute(batch)
        await self._run_isolating_failures(self._answer, batch)

    async def _answer(self, batch: ScoringBatch) -> None:
        """Answers the tasks of a batch that has scores; those with `explain` last and in sequence."""
        started = time.perf_counter()
        best, version, status = _top_k(batch), batch.model.version, batch.status
        scores = probabilities(best.values)
        explained = []
        for position, (task, span) in enumerate(zip(batch.tasks, best.slices, strict=True)):
            if task.query.explain:
                explained.append(position)
                continue
            ids, dropped, arm = best.post_ids[span], batch.candidates.dropped[position], task.query.arm
            # By position: keyword arguments would take as long again.
            task.complete(
                RankedCandidates(ids, scores[span], RankerName.NEUCF, version, status, None, dropped, arm)
            )
        self._stages.observe("order", time.perf_counter() - started)
        for position in explained:  # other work uses the device in between
            if not batch.tasks[position].outcome.done():
                await self._run_isolating_failures(self._explain, batch.subset([position]))

    async def _explain(self, batch: ScoringBatch) -> None:
        """Answers the single task of a batch that has scores, with explain terms."""
        (task,), candidates, best = batch.tasks, batch.candidates, _top_k(batch)
        (span,) = best.slices
        positions, values = best.positions[span], best.values[span]
        terms = await model_terms(
            batch.model, batch.user_rows.item(0), candidates.rows[positions], values, batch.deadline
        )
        task.complete(
            RankedCandidates(
                post_ids=best.post_ids[span],
                scores=probabilities(values),
                ranker=RankerName.NEUCF,
                model_version=batch.model.version,
                cache=batch.status,
                dropped=candidates.dropped[0],
                arm=task.query.arm,
                terms=terms,
                dropped_posts=candidates.drop_reasons(0, positions),
            )
        )

    async def _fall_back(self, failure: ScoringFailed, batch: ScoringBatch) -> None:
        """Answers by the heuristic where scoring failed; an expired deadline is an error."""
        in_time = [position for position, task in enumerate(batch.tasks) if not expired(task.query.deadline)]
        if in_time:
            self._answer_by_heuristic(batch.subset(in_time), degraded_reason(failure))
        for task in batch.tasks:
            task.complete(DeadlineExpired())  # no effect on an outcome that is set

    def _answer_by_heuristic(self, batch: ScoringBatch, degraded: DegradedReason | None) -> None:
        snapshot, candidates, now = batch.state.snapshot, batch.candidates, self._clock()
        values = self._heuristic.values(snapshot, candidates.rows, now)
        best = top_k(snapshot, candidates, values, [task.query.limit for task in batch.tasks])
        for position, (task, span) in enumerate(zip(batch.tasks, best.slices, strict=True)):
            positions, explain = best.positions[span], task.query.explain
            rows = candidates.rows[positions]
            task.complete(
                RankedCandidates(
                    post_ids=best.post_ids[span],
                    scores=best.values[span],
                    ranker=RankerName.HEURISTIC,
                    degraded_reason=degraded,
                    dropped=candidates.dropped[position],
                    arm=task.query.arm,
                    terms=heuristic_terms(self._heuristic, snapshot, rows, now) if explain else None,
                    dropped_posts=candidates.drop_reasons(position, positions) if explain else {},
                )
            )


async def _in_parallel(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Runs coroutines that raise nothing; one alone without a task of its own."""
    if len(coroutines) == 1:
        await coroutines[0]
    else:
        await asyncio.gather(*coroutines)


def _may_succeed_alone(failure: Exception, deadline: float) -> bool:
    """Whether a step that failed for a batch with this deadline may succeed for one of its tasks."""
    if isinstance(failure, CallError | ModelUnavailable) or is_device_fault(failure):
        return False
    return not (isinstance(failure, ScoringFailed) and expired(deadline))


def _top_k(batch: ScoringBatch) -> TopK:
    limits = [task.query.limit for task in batch.tasks]
    return top_k(batch.state.snapshot, batch.candidates, batch.values, limits)
