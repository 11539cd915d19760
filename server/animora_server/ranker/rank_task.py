"""Queries on their way through the ranker, and the scoring batches that they are grouped into."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from animora_server.ranker.candidates import Candidates
from animora_server.ranker.completion_queue import AnyFuture
from animora_server.scoring.protocols import ScoringModel
from animora_server.scoring.serving_state import ServingState
from animora_server.types import CacheStatus, FloatArray, IntArray, RankedCandidates, RankQuery

# Seconds. Queries whose deadlines lie this close to each other form one batch, which is due at the first of
# them. It is as long as coalescing may take. A batch costs the queue a tenth of what its queries would alone.
MAX_DEADLINE_SPREAD = 0.005
MAX_GROUP_CANDIDATES = 8192  # a larger batch would make its first query wait for its last
MAX_GROUP_QUERIES = 256  # the most keys of one look-up in the cache
NO_VALUES = np.empty(0, np.float32)
_VERSION_AND_DEADLINE = attrgetter("query.model_version", "query.score_by")


class CompletionLatch:
    """Counts the tasks of one caller that have no outcome yet. One future serves all of them.

    A future each would cost the caller a turn of the event loop each.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._completed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has stopped waiting."""
        return self._completed.cancelled()

    def completed(self) -> "asyncio.Future[None]":
        """Done when all tasks have an outcome; cancelling it means that the caller stops waiting."""
        return self._completed

    def cancel(self) -> None:
        """Records that the caller has stopped waiting."""
        self._completed.cancel()

    def count_down(self) -> None:
        """Records that one task has an outcome."""
        self._count -= 1
        if not self._count and not self._completed.done():
            self._completed.set_result(None)


@dataclass(eq=False, slots=True)
class RankTask:
    """One query on its way through the ranker.

    Attributes:
        query: The query.
        latch: Its caller.
        outcome: The ranking, or the error; None until then.
        batch: The batch that this task holds a reference to: the one whose step is running.
    """

    query: RankQuery
    latch: CompletionLatch
    outcome: RankedCandidates | BaseException | None = None
    batch: "ScoringBatch | None" = None

    def complete(self, outcome: RankedCandidates | BaseException) -> None:
        """Sets the outcome, unless there is one."""
        if self.outcome is None:
            self.outcome = outcome
            if self.batch is not None:
                self.batch.references -= 1
                self.batch = None  # else the two would wait for the garbage collector
            self.latch.count_down()

    def abandon(self) -> None:
        """Releases the batch; a batch that no task references any more cancels its step."""
        if self.batch is not None:
            self.batch.release()
            self.batch = None


@dataclass(eq=False, slots=True)
class ScoringBatch:
    """Rank tasks (b) of one model and about one deadline: one look-up, one piece of device work, one outcome.

    Attributes:
        tasks: The tasks; the first has the earliest deadline.
        state: The serving state of all of them.
        candidates: Their candidates (n).
        model: The model that scores them.
        user_rows: int64 (b), the users' rows in the model.
        status: Where the scores come from; HIT also during the look-up.
        keys: The cache key of each task; empty where the cache is not used.
        values: float32 (n), the logits as `impute_featureless` returns them; empty until then.
        failure: Why there are no logits.
        step: The look-up or computation that is running.
        references: How many tasks need that step.
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
    step: AnyFuture | None = None
    references: int = 0

    @property
    def deadline(self) -> float:
        """When the scores must be there, on the event loop's clock."""
        return self.tasks[0].query.score_by

    def run(self, step: AnyFuture) -> None:
        """Makes a future the running step; every task takes a reference."""
        self.step = step
        self.references = len(self.tasks)
        for task in self.tasks:
            task.batch = self

    def release(self) -> None:
        """Drops one reference; cancels the step at zero."""
        self.references -= 1
        if not self.references and self.step is not None:
            self.step.cancel()

    def subset(self, positions: Sequence[int]) -> "ScoringBatch":
        """The batch of the tasks at these positions, without a step; this batch where that is all of them."""
        if len(positions) == len(self.tasks):
            return self
        slices = self.candidates.slices
        return ScoringBatch(
            [self.tasks[position] for position in positions],
            self.state,
            self.candidates.subset(positions),
            self.model,
            self.user_rows[positions],
            self.status,
            [self.keys[position] for position in positions] if self.keys else (),
            np.concatenate([self.values[slices[position]] for position in positions]),
            self.failure,
        )

    def split(self) -> "list[ScoringBatch]":
        """One batch a task."""
        return [self.subset([position]) for position in range(len(self.tasks))]

    def waiting(self) -> "ScoringBatch | None":
        """The batch of the tasks whose caller still waits; None where there is none."""
        positions = [position for position, task in enumerate(self.tasks) if not task.latch.is_cancelled]
        return self.subset(positions) if positions else None


def split_into_turns(tasks: Sequence[RankTask]) -> Iterator[Sequence[RankTask]]:
    """Splits the tasks of one caller, in order, so that none holds up the event loop for long."""
    start = ids = 0
    for position, task in enumerate(tasks):
        query = task.query
        ids += len(query.post_ids) + len(query.exclude_post_ids)
        if ids > MAX_GROUP_CANDIDATES and position > start:
            yield tasks[start:position]
            start, ids = position, len(query.post_ids) + len(query.exclude_post_ids)
    yield tasks[start:]


def group_by_model_and_deadline(tasks: Iterable[RankTask]) -> list[list[RankTask]]:
    """Groups tasks that can form one batch: one model, deadlines close to each other, a bounded size.

    The first task of a group has its earliest deadline.
    """
    groups: list[list[RankTask]] = []
    version, latest, candidates = None, 0.0, 0
    for task in sorted(tasks, key=_VERSION_AND_DEADLINE):
        query = task.query
        candidates += len(query.post_ids)
        if (
            query.score_by > latest
            or query.model_version != version
            or candidates > MAX_GROUP_CANDIDATES
            or len(groups[-1]) == MAX_GROUP_QUERIES
        ):
            groups.append([])
            version, latest, candidates = (
                query.model_version,
                query.score_by + MAX_DEADLINE_SPREAD,
                len(query.post_ids),
            )
        groups[-1].append(task)
    return groups
