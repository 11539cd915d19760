"""Rank tasks: how they form batches, and when the step of a batch is cancelled."""

import asyncio

import numpy as np
import pytest

from animora_server.ranker.candidates import filter_candidates
from animora_server.ranker.rank_task import (
    MAX_DEADLINE_SPREAD,
    MAX_GROUP_CANDIDATES,
    MAX_GROUP_QUERIES,
    CompletionLatch,
    RankTask,
    ScoringBatch,
    group_by_model_and_deadline,
    split_into_turns,
)
from animora_server.scoring.serving_state import ServingState
from animora_server.types import RankQuery
from tests.support.catalogs import snapshot
from tests.support.models import RowScoresModel


def task(deadline: float = 0.0, candidates: int = 1, version: str = "") -> RankTask:
    query = RankQuery(7, np.arange(candidates), deadline, model_version=version, reserve=0.0)
    return RankTask(query, CompletionLatch(1))


def batch_of(tasks: list[RankTask]) -> ScoringBatch:
    catalog, model = snapshot({0: {}}), RowScoresModel([0.0])
    candidates = filter_candidates(catalog, [task.query for task in tasks])
    return ScoringBatch(tasks, ServingState(catalog, model), candidates, model, np.ones(len(tasks), np.int64))


async def test_tasks_of_one_model_with_close_deadlines_form_one_group():
    early, late, other, later = (
        task(10.0),
        task(10.0 + MAX_DEADLINE_SPREAD),
        task(10.0, version="v2"),
        task(11.0),
    )
    assert group_by_model_and_deadline([later, late, other, early]) == [[early, late], [later], [other]]


async def test_a_group_has_a_bounded_number_of_queries_and_candidates():
    groups = group_by_model_and_deadline([task() for _ in range(MAX_GROUP_QUERIES + 1)])
    assert [len(group) for group in groups] == [MAX_GROUP_QUERIES, 1]
    groups = group_by_model_and_deadline([task(candidates=MAX_GROUP_CANDIDATES), task()])
    assert [len(group) for group in groups] == [1, 1]


async def test_a_turn_has_a_bounded_number_of_candidates():
    tasks = [task(), task(candidates=MAX_GROUP_CANDIDATES), task(), task()]
    assert [list(turn) for turn in split_into_turns(tasks)] == [tasks[:1], tasks[1:2], tasks[2:]]


@pytest.mark.parametrize("completed", [0, 1, 2])
async def test_the_step_of_a_batch_is_cancelled_when_no_task_needs_it(completed):
    tasks = [task() for _ in range(3)]
    step: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    batch_of(tasks).run(step)
    for number, each in enumerate(tasks):
        assert not step.cancelled()
        if number < completed:
            each.complete(ValueError())
        else:
            each.abandon()
    assert step.cancelled()


async def test_a_step_that_completes_all_tasks_is_not_cancelled():
    tasks = [task() for _ in range(2)]
    step: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    batch_of(tasks).run(step)
    for each in tasks:
        each.complete(ValueError())
        each.abandon()
    assert not step.cancelled()
