"""Queries that are ranked as one batch: outcomes, failures and cancellation of each."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import (
    DeadlineExpired,
    DeadlineUnreachable,
    DeviceFault,
    ModelNotResident,
)
from animora_server.ranker import CandidateRanker
from animora_server.ranker.rank_task import MAX_BATCH_IDS
from animora_server.scoring.heuristic import Heuristic
from animora_server.types import (
    CachePolicy,
    DegradedReason,
    DoubleArray,
    FloatArray,
    IntArray,
    RankedCandidates,
    RankerName,
)
from tests.ranker.rankings import (
    THREE,
    FakeCache,
    Stages,
    query,
    ranker_over,
    rankings_of,
)
from tests.support.catalogs import NOW, snapshot
from tests.support.deadlines import with_short_timeout
from tests.support.models import FakeStateHolder, RowScoresModel


async def test_a_late_batch_falls_back_without_a_retry():
    model = RowScoresModel([0.0, 2.0, 1.0], failure=DeadlineUnreachable())
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), model))
    rankings = await ranker.rank_all([query(timeout=60, reserve=61)] * 3)
    assert [each.degraded_reason for each in rankings_of(rankings)] == 3 * [DegradedReason.DEADLINE]
    assert model.calls == 1


async def test_an_error_of_the_fallback_for_terms_reaches_every_caller():
    class Broken(Heuristic):
        def terms(self, snapshot: CatalogSnapshot, rows: IntArray, now: float) -> DoubleArray:
            raise MemoryError

    state = FakeStateHolder(snapshot(THREE), RowScoresModel([0.0, 2.0, 1.0], explained=np.nan))
    ranker = CandidateRanker(state, None, Broken(), stages=Stages(), clock=lambda: NOW)
    outcomes = await ranker.rank_all([query(explain=True)] * 2)
    assert [type(outcome) for outcome in outcomes] == [MemoryError] * 2


async def test_the_terms_of_a_batch_are_computed_in_sequence():
    model = RowScoresModel([0.0, 2.0, 1.0])
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), model))
    rankings = await ranker.rank_all([query(explain=True), query(), query(explain=True)])
    assert [isinstance(each, RankedCandidates) and each.terms is not None for each in rankings] == [
        True,
        False,
        True,
    ]
    assert (model.explanations, model.most_explaining) == (2, 1)


async def test_nothing_is_explained_after_the_caller_is_cancelled():
    model = RowScoresModel([0.0, 2.0, 1.0])
    ranking = asyncio.ensure_future(
        ranker_over(FakeStateHolder(snapshot(THREE), model)).rank_all([query(explain=True)] * 3)
    )
    await model.explanation_began.wait()
    ranking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ranking
    while model.explaining:  # noqa: ASYNC110  # the fake has no event for this
        await asyncio.sleep(0)
    assert model.explanations < 3


async def test_a_large_batch_does_not_block_the_event_loop():
    turns = 0
    ranked_in: list[int] = []

    def clock() -> float:  # called once a batch, for the heuristic
        ranked_in.append(turns)
        return NOW

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    states = FakeStateHolder(snapshot(THREE), RowScoresModel([0.0, 2.0, 1.0]))
    ranker = CandidateRanker(states, None, Heuristic(), stages=Stages(), clock=clock)
    counting = asyncio.ensure_future(count_turns())
    rankings = await ranker.rank_all([query(user=500, posts=tuple(range(MAX_BATCH_IDS)))] * 3)
    counting.cancel()
    assert len(set(ranked_in)) == len(ranked_in) == 3
    assert [each.post_ids.tolist() for each in rankings_of(rankings)] == [[30, 20, 10]] * 3


async def test_a_batch_that_is_cancelled_between_turns_leaves_no_running_work():
    model = RowScoresModel([0.0, 2.0, 1.0], gate=asyncio.Event())
    many = query(posts=tuple(range(MAX_BATCH_IDS)))
    batch = asyncio.ensure_future(ranker_over(FakeStateHolder(snapshot(THREE), model)).rank_all([many] * 3))
    await asyncio.sleep(0)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    while model.running:  # noqa: ASYNC110  # the fake has no event for this
        await asyncio.sleep(0)
    assert model.calls <= 1


async def test_each_query_of_a_batch_has_its_own_outcome():
    model = RowScoresModel([0.0, 2.0, 1.0])
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), model))
    cold, unknown, late, warm = await ranker.rank_all(
        [query(user=500), query(model_version="never"), query(timeout=-1), query()]
    )
    assert isinstance(cold, RankedCandidates)
    assert cold.ranker is RankerName.HEURISTIC
    assert isinstance(unknown, ModelNotResident)
    assert isinstance(late, RankedCandidates)  # the fake model answers however late it is
    assert isinstance(warm, RankedCandidates)
    assert warm.post_ids.tolist() == [20, 30, 10]


async def test_queries_with_close_deadlines_are_one_piece_of_work():
    model = RowScoresModel([0.0, 2.0, 1.0])
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), model))
    now = asyncio.get_running_loop().time()
    queries = [
        replace(query(posts=posts), deadline=now + timeout)
        for posts, timeout in (((10, 20), 60), ((30,), 60.001), ((20, 30, 99), 60), ((10,), 61))
    ]
    rankings = await ranker.rank_all(queries)
    shown = [ranking.post_ids.tolist() for ranking in rankings_of(rankings)]
    assert shown == [[20, 10], [30], [20, 30], [10]]
    assert model.calls == 2


@pytest.mark.failure(12)
async def test_failing_work_is_retried_for_each_query_alone():
    model = RowScoresModel([0.0, 2.0, 1.0], poisoned={8})
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), model))
    first, bad, second = await ranker.rank_all([query(), query(user=8), query(user=9)])
    assert isinstance(bad, IndexError)
    for ranking in (first, second):
        assert isinstance(ranking, RankedCandidates)
        assert ranking.ranker is RankerName.NEUCF


class BrokenModel(RowScoresModel):
    """Raises before there is a future."""

    def score_all(
        self, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        raise IndexError


async def test_an_error_of_one_model_fails_no_query_of_another():
    active, broken = RowScoresModel([0.0, 2.0, 1.0]), BrokenModel([], version="v2")
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), active, {"v2": broken}))
    first, second, failed = await ranker.rank_all([query(), query(user=8), query(model_version="v2")])
    assert [each.ranker for each in rankings_of([first, second])] == [RankerName.NEUCF] * 2
    assert isinstance(failed, IndexError)


@pytest.mark.failure(12)
async def test_a_query_whose_candidates_cannot_be_filtered_fails_alone():
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), RowScoresModel([0.0, 2.0, 1.0])))
    bad = replace(query(), post_ids=np.array(["no id"]))
    first, failed, second = await ranker.rank_all([query(), bad, query(user=8)])
    assert [each.ranker for each in rankings_of([first, second])] == [RankerName.NEUCF] * 2
    assert isinstance(failed, Exception)


async def test_without_a_model_a_caller_that_has_gone_changes_nothing_for_the_others():
    ranker = ranker_over(FakeStateHolder(snapshot(THREE)))
    callers = [asyncio.create_task(ranker.rank(query(user=user))) for user in (7, 8)]
    # The batch has started once the driver is a task of the loop; it has taken no step yet.
    while len(asyncio.all_tasks()) < 4:  # noqa: ASYNC110  # the loop has no event for this
        await asyncio.sleep(0)
    callers[0].cancel()
    assert (await callers[1]).degraded_reason is DegradedReason.NO_MODEL


async def test_without_a_model_only_the_queries_whose_deadline_has_passed_fail():
    ranker = ranker_over(FakeStateHolder(snapshot(THREE)))
    now = asyncio.get_running_loop().time()
    late = replace(query(), deadline=now - 1e-3, reserve=0.0)
    in_time = replace(
        query(user=8), deadline=now + 60, reserve=60.0
    )  # its scores are due at about the same time
    failed, ranking = await ranker.rank_all([late, in_time])
    assert isinstance(failed, DeadlineExpired)
    assert isinstance(ranking, RankedCandidates)
    assert ranking.degraded_reason is DegradedReason.NO_MODEL


async def test_callers_of_a_batch_whose_work_is_cancelled_by_the_server_do_not_wait_for_ever():
    model = RowScoresModel([0.0, 2.0, 1.0], gate=asyncio.Event())
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), model))
    callers = [asyncio.create_task(ranker.rank(query(user=user))) for user in (7, 8)]
    await model.called.wait()
    for work in model.works:
        work.cancel()
    await asyncio.wait(callers)
    assert all(caller.cancelled() for caller in callers)


async def test_a_device_fault_is_not_retried():
    model = RowScoresModel([0.0, 2.0, 1.0], failure=DeviceFault())
    rankings = await ranker_over(FakeStateHolder(snapshot(THREE), model)).rank_all([query(), query()])
    for ranking in rankings:
        assert isinstance(ranking, RankedCandidates)
        assert ranking.degraded_reason is DegradedReason.DEVICE_FAULT
    assert model.calls == 1


@pytest.mark.failure(11)
async def test_shared_work_runs_until_its_last_caller_is_cancelled():
    model = RowScoresModel([0.0, 2.0, 1.0], gate=asyncio.Event())
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), model))
    same = query()
    callers = [asyncio.create_task(ranker.rank(same)) for _ in range(3)]
    await model.called.wait()
    for caller in callers[:2]:
        caller.cancel()
    await asyncio.gather(*callers[:2], return_exceptions=True)
    assert model.running == 1
    callers[2].cancel()
    await asyncio.gather(callers[2], return_exceptions=True)
    await asyncio.sleep(0)
    assert (model.calls, model.running) == (1, 0)


async def test_a_batch_has_one_model_however_the_versions_alternate():
    models = {name: RowScoresModel([0.0, 2.0, 1.0], version=name) for name in ("v1", "v2")}
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), models["v1"], models))
    rankings = await ranker.rank_all([query(model_version=name) for name in ("v1", "v2", "v1", "v2")])
    assert [ranking.model_version for ranking in rankings_of(rankings)] == ["v1", "v2", "v1", "v2"]
    assert [model.calls for model in models.values()] == [1, 1]


async def test_no_caller_waits_for_the_scores_of_another():
    gate, cache = asyncio.Event(), FakeCache()
    slow = RowScoresModel([0.0, 2.0, 1.0], gate=gate)
    quick = RowScoresModel([0.0, 2.0, 1.0], version="quick")
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), slow, {"quick": quick}), cache)
    waiting = asyncio.create_task(ranker.rank(query()))
    others = await asyncio.gather(
        ranker.rank(query(model_version="quick")),
        ranker.rank(query(user=500)),
        with_short_timeout(lambda timeout: ranker.rank(query(timeout))),
    )
    assert [other.ranker for other in others] == [
        RankerName.NEUCF,
        RankerName.HEURISTIC,
        RankerName.HEURISTIC,
    ]
    assert not waiting.done()
    gate.set()
    assert (await waiting).ranker is RankerName.NEUCF


@pytest.mark.failure(11)
@pytest.mark.parametrize("policy", [CachePolicy.BYPASS, CachePolicy.DEFAULT, CachePolicy.REFRESH])
async def test_work_for_one_caller_is_cancelled_with_the_caller(policy):
    model = RowScoresModel([0.0, 2.0, 1.0], gate=asyncio.Event())
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), model), FakeCache())
    caller = asyncio.create_task(ranker.rank(query(cache_policy=policy)))
    batch = asyncio.create_task(ranker.rank_all([query(cache_policy=policy, posts=(10,))]))
    while model.calls < 2:  # noqa: ASYNC110  # the fake has no event for this
        await asyncio.sleep(0)
    caller.cancel()
    batch.cancel()
    await asyncio.wait((caller, batch))
    while model.running:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert caller.cancelled()
    assert batch.cancelled()
