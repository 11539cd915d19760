"""Queries on their way through the ranker, and the scoring batches that they are grouped into."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from animora_server.ranker.candidates import NO_CANDIDATES, Candidates, filter_candidates
from animora_server.scoring.arms import Arms
from animora_server.scoring.protocols import ScoringModel
from animora_server.scoring.serving_state import ServingState
from animora_server.types import CacheStatus, FloatArray, IntArray, RankedCandidates, RankQuery

# Seconds. Queries whose deadlines lie this close to each other form one batch, which is due at the first of
# them. It is as long as coalescing may take. A batch costs the queue a tenth of what its queries would alone.
MAX_DEADLINE_SPREAD = 0.005
MAX_BATCH_IDS = 8192  # a larger batch would make its first query wait for its last
MAX_BATCH_QUERIES = 256  # the most keys of one look-up in the cache
NO_ROWS, NO_VALUES = np.empty(0, np.int64), np.empty(0, np.float32)
_BATCH_ORDER = attrgetter("query.model_version", "query.cache_policy", "query.score_by")


@dataclass(eq=False, slots=True)
class RankTask:
    """One query on its way through the ranker.

    Attributes:
        query: The query.
        outcome: The ranking, or the error; cancelled when the caller has stopped waiting.
        batch: The batch that it was coalesced into, until there is an outcome; None for a BatchRank.
    """

    query: RankQuery
    outcome: asyncio.Future[RankedCandidates | BaseException]
    batch: "ScoringBatch | None" = None

    def complete(self, outcome: RankedCandidates | BaseException) -> None:
        """Sets the outcome, unless there is one."""
        self.batch = None  # else the two would wait for the garbage collector
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def abandon(self) -> None:
        """Records that the caller has stopped waiting; cancels the batch if all its callers have."""
        self.outcome.cancel()
        batch, self.batch = self.batch, None
        if (
            batch is not None
            and batch.driver is not None
            and all(task.outcome.done() for task in batch.tasks)
        ):
            batch.driver.cancel()


@dataclass(eq=False, slots=True)
class ScoringBatch:
    """Rank tasks (b) of one model and cache policy, with close deadlines: one look-up, one piece of work.

    Attributes:
        tasks: The tasks; the first has the earliest deadline.
        state: The serving state of all of them.
        candidates: Their candidates (n); NO_CANDIDATES before `filter`.
        user_rows: int64 (b), the users' rows in the model; 0 before `find_users`.
        keys: The cache key of each task; empty where the cache is not used.
        status: Where the scores come from.
        values: float32 (n), the logits as `impute_featureless` returns them; empty until they are there.
        driver: The task of the event loop that ranks a coalesced batch.
    """

    tasks: Sequence[RankTask]
    state: ServingState
    candidates: Candidates = NO_CANDIDATES
    user_rows: IntArray = field(default_factory=lambda: NO_ROWS)
    keys: Sequence[bytes] = ()
    status: CacheStatus = CacheStatus.BYPASS
    values: FloatArray = field(default_factory=lambda: NO_VALUES)
    driver: asyncio.Task[None] | None = None

    @property
    def model(self) -> ScoringModel:
        """The model that scores the tasks.

        Raises:
            ModelNotResident: The version that the queries name is not loaded.
            ModelUnavailable: They name none, and no model is active.
        """
        return self.state.model(self.tasks[0].query.model_version)

    @property
    def deadline(self) -> float:
        """When the scores must be there, on the event loop's clock."""
        return self.tasks[0].query.score_by

    def filter(self) -> None:
        """Sets the candidates, eligible or with a drop reason."""
        self.candidates = filter_candidates(self.state.snapshot, [task.query for task in self.tasks])
        self.user_rows = np.zeros(len(self.tasks), np.int64)

    def find_users(self) -> IntArray:
        """Sets and returns the users' rows int64 (b) in the model, 0 for a user that it does not know.

        Raises:
            ModelNotResident, ModelUnavailable: As `model`.
        """
        self.user_rows = self.model.user_rows(np.array([task.query.user_id for task in self.tasks]))
        return self.user_rows

    def subset(self, positions: Sequence[int]) -> "ScoringBatch":
        """The batch of the tasks at these positions; this batch where that is all of them."""
        if len(positions) == len(self.tasks):
            return self
        tasks = [self.tasks[position] for position in positions]
        if self.candidates is NO_CANDIDATES:
            return ScoringBatch(tasks, self.state)
        slices = self.candidates.slices
        return ScoringBatch(
            tasks,
            self.state,
            self.candidates.subset(positions),
            self.user_rows[positions],
            [self.keys[position] for position in positions] if self.keys else (),
            self.status,
            np.concatenate([self.values[slices[position]] for position in positions]),
        )

    def split(self) -> "list[ScoringBatch]":
        """One batch a task."""
        return [self.subset([position]) for position in range(len(self.tasks))]

    def waiting(self) -> "ScoringBatch | None":
        """The batch of the tasks without outcome whose caller still waits; None where there is none."""
        positions = [position for position, task in enumerate(self.tasks) if not task.outcome.done()]
        return self.subset(positions) if positions else None


def group_into_batches(
    state: ServingState, tasks: Sequence[RankTask], arms: Arms | None = None
) -> list[ScoringBatch]:
    """Groups tasks into batches: one model, one cache policy, deadlines close to each other, a bounded size.

    The first task of a batch has its earliest deadline. With experiments, each query that names no version
    gets the arm that serves its user, and that arm's version.
    """
    if arms is not None:
        for task in tasks:
            if not task.query.model_version:
                arm = arms.serving(state, task.query.user_id)
                task.query = task.query.in_arm(arm.name, arm.model_version)
    groups: list[list[RankTask]] = []
    group, latest, ids = None, 0.0, 0
    for task in sorted(tasks, key=_BATCH_ORDER):
        query = task.query
        size = len(query.post_ids) + len(query.exclude_post_ids)
        ids += size
        if (
            (query.model_version, query.cache_policy) != group
            or query.score_by > latest
            or ids > MAX_BATCH_IDS
            or len(groups[-1]) == MAX_BATCH_QUERIES
        ):
            groups.append([])
            group, latest = (query.model_version, query.cache_policy), query.score_by + MAX_DEADLINE_SPREAD
            ids = size
        groups[-1].append(task)
    return [ScoringBatch(group, state) for group in groups]
