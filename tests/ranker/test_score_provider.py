"""Scores of a batch: from the cache, shared with a running computation, or computed and stored."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from animora_server.types import (
    CachePolicy,
    CacheStatus,
    DegradedReason,
    FloatArray,
    RankedCandidates,
    RankQuery,
)
from tests.ranker.rankings import (
    THREE,
    FakeCache,
    query,
    rank,
    ranker_over,
    rankings_of,
)
from tests.support.catalogs import snapshot
from tests.support.models import FakeStateHolder, RowScoresModel


class MissingCache(FakeCache):
    """Completes look-ups on request, each as a miss."""

    def __init__(self):
        super().__init__()
        self.look_ups: list[tuple[int, asyncio.Future[list[FloatArray | None]]]] = []

    def find(
        self, keys: Sequence[bytes], counts: Sequence[int], deadline: float
    ) -> "asyncio.Future[list[FloatArray | None]]":
        found: asyncio.Future[list[FloatArray | None]] = asyncio.get_running_loop().create_future()
        self.look_ups.append((len(keys), found))
        return found

    def complete(self) -> None:
        keys, found = self.look_ups.pop(0)
        found.set_result([None] * keys)


@pytest.mark.failure(13)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
async def test_scores_that_are_not_finite_are_never_returned_or_stored(value):
    cache = FakeCache()
    ranking = await rank(
        FakeStateHolder(snapshot(THREE), RowScoresModel([0.0, value, 1.0])), 10, 20, 30, cache=cache
    )
    assert ranking.degraded_reason is DegradedReason.INVALID_SCORES
    assert cache.stored == {}


async def test_the_same_candidates_hit_the_cache_in_any_order_and_with_any_limit():
    cache, model = FakeCache(), RowScoresModel([0.0, 2.0, 1.0])
    state = FakeStateHolder(snapshot(THREE), model)
    first = await rank(state, 10, 20, 30, cache=cache)
    second = await rank(state, 30, 10, 20, 20, limit=1, cache=cache)
    assert (first.cache, second.cache) == (CacheStatus.MISS, CacheStatus.HIT)
    assert second.post_ids.tolist() == [20]
    assert second.scores[0] == first.scores[0]
    assert model.calls == 1


async def test_filters_run_after_the_cache():
    cache, model = FakeCache(), RowScoresModel([0.0, 2.0, 1.0])
    await rank(FakeStateHolder(snapshot(THREE), model), 10, 20, 30, cache=cache)
    blocked = snapshot({10: {}, 20: {"author": 50}, 30: {"deleted": 1}}, blocks=[(50, 7)])
    ranking = await rank(FakeStateHolder(blocked, model), 10, 20, 30, cache=cache)
    assert ranking.cache is CacheStatus.HIT
    assert ranking.post_ids.tolist() == [10]


async def test_an_edited_post_misses():
    cache, model = FakeCache(), RowScoresModel([0.0])
    await rank(FakeStateHolder(snapshot({10: {"fingerprint": 1}}), model), 10, cache=cache)
    ranking = await rank(FakeStateHolder(snapshot({10: {"fingerprint": 2}}), model), 10, cache=cache)
    assert ranking.cache is CacheStatus.MISS


async def test_refresh_writes_without_reading_and_bypass_does_neither():
    cache, state = FakeCache(), FakeStateHolder(snapshot(THREE), RowScoresModel([0.0, 2.0, 1.0]))
    bypassed = await rank(state, 10, cache=cache, cache_policy=CachePolicy.BYPASS)
    assert (bypassed.cache, cache.reads, len(cache.stored)) == (CacheStatus.BYPASS, 0, 0)
    refreshed = await rank(state, 10, cache=cache, cache_policy=CachePolicy.REFRESH)
    assert (refreshed.cache, cache.reads, len(cache.stored)) == (CacheStatus.BYPASS, 0, 1)


@pytest.mark.failure(22)
async def test_a_cached_value_that_is_not_finite_is_a_miss():
    cache, state = FakeCache(), FakeStateHolder(snapshot(THREE), RowScoresModel([0.0, 2.0, 1.0]))
    await rank(state, 10, 20, cache=cache)
    cache.stored = {stored: np.full_like(value, np.nan) for stored, value in cache.stored.items()}
    ranking = await rank(state, 10, 20, cache=cache)
    assert (ranking.cache, ranking.post_ids.tolist()) == (CacheStatus.MISS, [20, 10])


async def test_in_a_batch_only_the_values_that_are_not_finite_are_misses():
    cache, state = FakeCache(), FakeStateHolder(snapshot(THREE), RowScoresModel([0.0, 2.0, 1.0]))
    ranker = ranker_over(state, cache)
    queries = [query(posts=posts) for posts in ((10, 20), (20, 30), (10, 30))]
    await ranker.rank_all(queries)
    spoilt = list(cache.stored)[1]
    cache.stored[spoilt] = np.full_like(cache.stored[spoilt], np.nan)
    rankings = rankings_of(await ranker.rank_all(queries))
    assert [ranking.cache for ranking in rankings] == [CacheStatus.HIT, CacheStatus.MISS, CacheStatus.HIT]
    assert [ranking.post_ids.tolist() for ranking in rankings] == [[20, 10], [20, 30], [30, 10]]


async def test_each_query_of_a_batch_has_its_own_cache_policy():
    cache, model = FakeCache(), RowScoresModel([0.0, 2.0, 1.0])
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), model), cache)
    policies = (CachePolicy.DEFAULT, CachePolicy.BYPASS, CachePolicy.REFRESH, CachePolicy.DEFAULT)
    posts = ((10, 20), (20, 30), (10, 30), (99,))
    queries = [query(posts=ids, cache_policy=policy) for ids, policy in zip(posts, policies, strict=True)]
    for expected in (CacheStatus.MISS, CacheStatus.HIT):
        rankings = rankings_of(await ranker.rank_all(queries))
        assert [ranking.cache for ranking in rankings] == [expected, *[CacheStatus.BYPASS] * 3]
        assert [ranking.post_ids.tolist() for ranking in rankings] == [[20, 10], [20, 30], [30, 10], []]
    assert len(cache.stored) == 2


@pytest.mark.failure(23)
async def test_callers_that_miss_the_same_key_share_one_computation():
    cache, gate = FakeCache(), asyncio.Event()
    model = RowScoresModel([0.0, 2.0, 1.0], gate=gate)
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), model), cache)
    deadline = asyncio.get_running_loop().time() + 60
    query = RankQuery(user_id=7, post_ids=np.array([10, 20, 30]), deadline=deadline)
    callers = [asyncio.create_task(ranker.rank(query)) for _ in range(500)]
    await model.called.wait()
    callers[0].cancel()  # it started the computation
    await asyncio.wait(callers[:1])
    gate.set()
    rankings = await asyncio.gather(*callers[1:])
    assert model.calls == 1
    assert {tuple(ranking.post_ids.tolist()) for ranking in rankings} == {(20, 30, 10)}


async def test_a_look_up_slower_than_the_computation_shares_its_result():
    model, cache = RowScoresModel([0.0, 2.0, 1.0]), MissingCache()
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), model), cache)

    def submit(*queries: RankQuery) -> "asyncio.Task[list[RankedCandidates | BaseException]]":
        return asyncio.create_task(ranker.rank_all(queries))

    first, second, third = submit(query()), submit(query(), query(posts=(10, 20))), submit(query())
    while len(cache.look_ups) < 3:  # noqa: ASYNC110  # the fake has no event for this
        await asyncio.sleep(0)
    cache.complete()
    rankings = await first
    cache.complete()  # the look-up started before the scores were computed
    cache.complete()
    rankings += [*await second, *await third]
    fourth = submit(query())
    while not cache.look_ups:  # noqa: ASYNC110  # as above
        await asyncio.sleep(0)
    cache.complete()  # the scores are not stored yet
    rankings += await fourth
    assert [(each.post_ids.tolist(), each.cache) for each in rankings_of(rankings)] == [
        (posts, CacheStatus.MISS) for posts in ([20, 30, 10], [20, 30, 10], [20, 10], *[[20, 30, 10]] * 2)
    ]
    assert model.calls == 2


async def test_callers_with_a_later_deadline_share_another_computation():
    cache, gate = FakeCache(), asyncio.Event()
    now = asyncio.get_running_loop().time()
    model = RowScoresModel([0.0, 2.0, 1.0], gate=gate, answers_from=now + 40)
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), model), cache)
    callers = [
        asyncio.create_task(
            ranker.rank(RankQuery(user_id=7, post_ids=np.array([10, 20, 30]), deadline=now + timeout))
        )
        for timeout in (30, 60, 60, 60)
    ]
    await model.called.wait()
    gate.set()
    hurried, *others = await asyncio.gather(*callers)
    assert hurried.degraded_reason is DegradedReason.DEADLINE
    assert [ranking.post_ids.tolist() for ranking in others] == [[20, 30, 10]] * 3
    assert model.calls == 2
    assert len(cache.stored) == 1


class SlowCache(FakeCache):
    """Look-ups complete when the test sets their result."""

    def __init__(self):
        super().__init__()
        self.look_ups: list[asyncio.Future[list[FloatArray | None]]] = []

    def find(
        self, keys: Sequence[bytes], counts: Sequence[int], deadline: float
    ) -> "asyncio.Future[list[FloatArray | None]]":
        self.look_ups.append(asyncio.get_running_loop().create_future())
        return self.look_ups[-1]


async def test_after_a_look_up_only_the_queries_that_still_wait_are_computed():
    model, cache = RowScoresModel([0.0, 2.0, 1.0]), SlowCache()
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), model), cache)
    callers = [asyncio.create_task(ranker.rank(query(user=user))) for user in (7, 8, 9)]
    while not cache.look_ups:  # noqa: ASYNC110  # the fake has no event for this
        await asyncio.sleep(0)
    for caller in callers[:2]:
        caller.cancel()
    await asyncio.gather(*callers[:2], return_exceptions=True)
    (looked_up,) = cache.look_ups
    looked_up.set_result([None] * 3)
    assert (await callers[2]).cache is CacheStatus.MISS
    assert model.calls == 1
