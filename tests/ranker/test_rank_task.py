"""Rank tasks: how they form batches, and when a batch is cancelled."""

import asyncio

import numpy as np
import pytest

from animora_server.ranker.rank_task import (
    MAX_BATCH_IDS,
    MAX_BATCH_QUERIES,
    MAX_DEADLINE_SPREAD,
    RankTask,
    ScoringBatch,
    group_into_batches,
)
from animora_server.scoring.serving_state import ServingState
from animora_server.types import CachePolicy, RankQuery
from tests.support.catalogs import snapshot

STATE = ServingState(snapshot({0: {}}))


def task(deadline: float = 0.0, candidates: int = 1, **options) -> RankTask:
    query = RankQuery(7, np.arange(candidates), deadline, reserve=0.0, **options)
    return RankTask(query, asyncio.get_running_loop().create_future())


def grouped(tasks: list[RankTask]) -> list[list[RankTask]]:
    return [list(batch.tasks) for batch in group_into_batches(STATE, tasks)]


async def test_tasks_of_one_model_and_policy_with_close_deadlines_form_one_batch():
    early, late, later = task(10.0), task(10.0 + MAX_DEADLINE_SPREAD), task(11.0)
    other, refreshing = task(10.0, model_version="v2"), task(10.0, cache_policy=CachePolicy.REFRESH)
    tasks = [later, late, other, refreshing, early]
    assert grouped(tasks) == [[early, late], [later], [refreshing], [other]]


async def test_a_batch_has_a_bounded_number_of_queries_and_ids():
    batches = grouped([task() for _ in range(MAX_BATCH_QUERIES + 1)])
    assert [len(batch) for batch in batches] == [MAX_BATCH_QUERIES, 1]
    assert [len(batch) for batch in grouped([task(candidates=MAX_BATCH_IDS), task()])] == [1, 1]
    excluding = [task(exclude_post_ids=np.arange(MAX_BATCH_IDS // 2)) for _ in range(3)]
    assert [len(batch) for batch in grouped(excluding)] == [1, 1, 1]


@pytest.mark.parametrize("completed", [0, 1, 2])
async def test_a_batch_is_cancelled_when_no_caller_waits_for_it(completed):
    tasks = [task() for _ in range(3)]
    batch = driven(tasks)
    assert batch.driver is not None
    for number, each in enumerate(tasks):
        assert not batch.driver.cancelling()
        if number < completed:
            each.complete(ValueError())
        else:
            each.abandon()
    assert batch.driver.cancelling()
    batch.driver.cancel()


async def test_a_batch_that_completes_all_its_tasks_is_not_cancelled():
    tasks = [task() for _ in range(2)]
    batch = driven(tasks)
    assert batch.driver is not None
    for each in tasks:
        each.complete(ValueError())
        each.abandon()
    assert not batch.driver.cancelling()
    batch.driver.cancel()


def driven(tasks: list[RankTask]) -> ScoringBatch:
    """A batch of tasks with a driver that waits forever."""
    batch = ScoringBatch(tasks, STATE)
    batch.driver = asyncio.ensure_future(asyncio.Event().wait())  # type: ignore[arg-type]  # its result is unused
    for each in tasks:
        each.batch = batch
    return batch
