"""The ranker: model or heuristic, order, cache, fallback, and isolation of callers from each other."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import (
    CatalogUnavailable,
    DeadlineExpired,
    DeadlineUnreachable,
    DeviceFault,
    ModelNotResident,
    Overloaded,
)
from animora_server.ranker import CandidateRanker
from animora_server.ranker.rank_task import MAX_BATCH_IDS
from animora_server.ranker.score_provider import CacheAccess
from animora_server.scoring import heuristic
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.serving_state import ServingStateHolder
from animora_server.scoring.terms import MODEL_TERMS
from animora_server.types import (
    CachePolicy,
    CacheStatus,
    DegradedReason,
    DoubleArray,
    DropReason,
    FloatArray,
    IntArray,
    RankedCandidates,
    RankerName,
    RankQuery,
)
from tests.support.catalogs import NOW, snapshot
from tests.support.deadlines import with_short_timeout
from tests.support.models import FakeStateHolder, RowScoresModel


class FakeCache:
    def __init__(self):
        self.stored: dict[bytes, FloatArray] = {}
        self.reads = 0

    def find(
        self, keys: Sequence[bytes], counts: Sequence[int], deadline: float
    ) -> "asyncio.Future[list[FloatArray | None]]":
        self.reads += len(keys)
        found: asyncio.Future[list[FloatArray | None]] = asyncio.get_running_loop().create_future()
        found.set_result([self.stored.get(key) for key in keys])
        return found

    def put(self, key: bytes, scores: FloatArray) -> None:
        self.stored[key] = scores


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


class Stages:
    def observe(self, stage: str, seconds: float) -> None:
        assert stage in ("candidates", "cache", "score", "order")
        assert seconds >= 0


def key(model_version: str, user_id: int, post_ids: IntArray, fingerprints: IntArray) -> bytes:
    return repr((model_version, user_id, post_ids.tolist(), fingerprints.tolist())).encode()


def ranker_over(states, cache: FakeCache | None = None) -> CandidateRanker:
    access = CacheAccess(cache, key) if cache else None
    return CandidateRanker(states, access, Heuristic(), stages=Stages(), clock=lambda: NOW)


async def rank(
    states, *post_ids: int, user: int = 7, cache: FakeCache | None = None, **options
) -> RankedCandidates:
    timeout = options.pop("timeout", 60)
    deadline = asyncio.get_running_loop().time() + timeout
    query = RankQuery(user_id=user, post_ids=np.array(post_ids, np.int64), deadline=deadline, **options)
    return await ranker_over(states, cache).rank(query)


def query(timeout: float = 60, user: int = 7, posts: tuple[int, ...] = (10, 20, 30), **options) -> RankQuery:
    """A query that reserves half of its time for the heuristic, so that a busy machine can answer in time."""
    deadline = asyncio.get_running_loop().time() + timeout
    options = {"reserve": timeout / 2, **options}
    return RankQuery(user_id=user, post_ids=np.array(posts, np.int64), deadline=deadline, **options)


def rankings_of(outcomes: Sequence[RankedCandidates | BaseException]) -> list[RankedCandidates]:
    """The rankings among the outcomes, without the errors."""
    return [outcome for outcome in outcomes if isinstance(outcome, RankedCandidates)]


THREE = {10: {"likes": 1}, 20: {"likes": 5}, 30: {"likes": 9}}


async def test_a_known_user_is_ranked_by_the_model_best_first():
    model = RowScoresModel([0.0, 2.0, 1.0])
    ranking = await rank(FakeStateHolder(snapshot(THREE), model), 10, 20, 30)
    assert ranking.post_ids.tolist() == [20, 30, 10]
    assert ranking.scores.tolist() == pytest.approx([0.880797, 0.731059, 0.5], abs=1e-6)
    assert ranking.ranker is RankerName.NEUCF
    assert ranking.model_version == "v1"
    assert ranking.cache is CacheStatus.BYPASS
    assert ranking.degraded_reason is None


async def test_ties_go_to_the_newer_post_then_to_the_larger_id():
    posts = {1: {"age": 50}, 2: {"age": 50}, 3: {"age": 10}}
    ranking = await rank(FakeStateHolder(snapshot(posts), RowScoresModel([1.0, 1.0, 1.0])), 1, 2, 3)
    assert ranking.post_ids.tolist() == [3, 2, 1]


async def test_a_limit_returns_the_best_and_does_not_change_the_drop_counts():
    ranking = await rank(
        FakeStateHolder(snapshot(THREE), RowScoresModel([0.0, 2.0, 1.0])), 10, 20, 30, 99, limit=2
    )
    assert ranking.post_ids.tolist() == [20, 30]
    assert sum(ranking.dropped.values()) == 1


async def test_a_cold_user_is_ranked_by_the_heuristic_without_a_degraded_reason():
    ranking = await rank(
        FakeStateHolder(snapshot(THREE), RowScoresModel([0.0, 2.0, 1.0])), 10, 20, 30, user=500
    )
    assert ranking.post_ids.tolist() == [30, 20, 10]
    assert ranking.scores.tolist()[0] == pytest.approx(1.0)
    assert ranking.ranker is RankerName.HEURISTIC
    assert ranking.model_version == ""
    assert ranking.degraded_reason is None


async def test_without_a_model_the_heuristic_answers_with_a_degraded_reason():
    ranking = await rank(FakeStateHolder(snapshot(THREE)), 10, 20)
    assert ranking.ranker is RankerName.HEURISTIC
    assert ranking.degraded_reason is DegradedReason.NO_MODEL


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Overloaded(), DegradedReason.OVERLOADED),
        (DeadlineUnreachable(), DegradedReason.DEADLINE),
        (DeviceFault("gone"), DegradedReason.DEVICE_FAULT),
    ],
)
async def test_a_failing_model_falls_back_to_the_heuristic_with_the_reason(failure, reason):
    cache = FakeCache()
    model = RowScoresModel([0.0, 2.0, 1.0], failure=failure)
    ranking = await rank(FakeStateHolder(snapshot(THREE), model), 10, 20, 30, cache=cache)
    assert ranking.post_ids.tolist() == [30, 20, 10]
    assert ranking.degraded_reason is reason
    assert cache.stored == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
async def test_scores_that_are_not_finite_are_never_returned_or_stored(value):
    cache = FakeCache()
    ranking = await rank(
        FakeStateHolder(snapshot(THREE), RowScoresModel([0.0, value, 1.0])), 10, 20, 30, cache=cache
    )
    assert ranking.degraded_reason is DegradedReason.INVALID_SCORES
    assert cache.stored == {}


async def test_a_bug_in_the_model_is_not_hidden_behind_the_heuristic():
    with pytest.raises(IndexError):
        await rank(FakeStateHolder(snapshot(THREE), RowScoresModel([])), 10)


async def test_a_slow_model_falls_back_to_the_heuristic_before_the_deadline():
    model = RowScoresModel([0.0, 2.0, 1.0], gate=asyncio.Event())
    ranking = await with_short_timeout(
        lambda timeout: rank(FakeStateHolder(snapshot(THREE), model), 10, timeout=timeout)
    )
    assert ranking.degraded_reason is DegradedReason.DEADLINE


async def test_the_model_has_the_time_without_the_reserve():
    model = RowScoresModel([0.0, 2.0, 1.0])
    request = query(timeout=60, reserve=50)
    await ranker_over(FakeStateHolder(snapshot(THREE), model)).rank(request)
    assert model.deadlines == [request.deadline - 50]


async def test_a_late_batch_falls_back_without_a_retry():
    model = RowScoresModel([0.0, 2.0, 1.0], failure=DeadlineUnreachable())
    ranker = ranker_over(FakeStateHolder(snapshot(THREE), model))
    rankings = await ranker.rank_all([query(timeout=60, reserve=61)] * 3)
    assert [each.degraded_reason for each in rankings_of(rankings)] == 3 * [DegradedReason.DEADLINE]
    assert model.calls == 1


async def test_an_expired_deadline_is_an_error():
    with pytest.raises(DeadlineExpired):
        await rank(
            FakeStateHolder(snapshot(THREE), RowScoresModel([0.0], failure=DeadlineUnreachable())),
            10,
            timeout=-1,
        )


async def test_a_query_may_name_a_loaded_version():
    old = RowScoresModel([3.0, 2.0, 1.0], version="old")
    state = FakeStateHolder(snapshot(THREE), RowScoresModel([1.0, 2.0, 3.0]), {"old": old})
    ranking = await rank(state, 10, 20, 30, model_version="old")
    assert ranking.post_ids.tolist() == [10, 20, 30]
    assert ranking.model_version == "old"
    with pytest.raises(ModelNotResident):
        await rank(state, 10, model_version="never")


async def test_posts_without_features_get_the_users_median():
    model = RowScoresModel([9.0, 2.0, 1.0], featureless={0})
    ranking = await rank(FakeStateHolder(snapshot(THREE), model), 10, 20, 30)
    assert ranking.post_ids.tolist() == [20, 10, 30]
    assert ranking.scores.tolist()[1] == pytest.approx(1 / (1 + np.exp(-1.5)), abs=1e-6)


async def test_ranking_is_unavailable_without_a_catalog_or_with_old_blocks():
    with pytest.raises(CatalogUnavailable):
        await rank(ServingStateHolder(600), 10)
    with pytest.raises(CatalogUnavailable):
        await rank(FakeStateHolder(snapshot(THREE, block_age=601)), 10)


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


@pytest.mark.parametrize("user", [7, 500])
async def test_terms_add_up_to_the_score_they_explain(user):
    state = FakeStateHolder(snapshot(THREE), RowScoresModel([0.0, 2.0, 1.0]))
    ranking = await rank(state, 10, 20, 30, user=user, explain=True)
    assert ranking.terms is not None
    total = ranking.terms.values.sum(axis=1)
    expected = np.log(ranking.scores / (1 - ranking.scores)) if user == 7 else ranking.scores
    assert total.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert len(ranking.terms.names) == ranking.terms.values.shape[1]


async def test_an_imputed_logit_is_explained_by_the_bias():
    model = RowScoresModel([9.0, 2.0, 1.0], featureless={0})
    ranking = await rank(FakeStateHolder(snapshot(THREE), model), 10, 20, 30, explain=True)
    assert ranking.terms is not None
    values = dict(zip(ranking.post_ids.tolist(), ranking.terms.values.tolist(), strict=True))
    assert dict(zip(ranking.terms.names, values[10], strict=True)) == {
        **dict.fromkeys(MODEL_TERMS, 0.0),
        "bias": 1.5,
    }
    assert values[20] == pytest.approx([0.25] * 8)


async def test_terms_that_are_not_finite_fall_back_to_the_heuristic():
    model = RowScoresModel([0.0, 2.0, 1.0], explained=np.nan)
    ranking = await rank(FakeStateHolder(snapshot(THREE), model), 10, 20, 30, explain=True)
    assert ranking.degraded_reason is DegradedReason.INVALID_SCORES
    assert ranking.terms is not None
    assert ranking.terms.names == heuristic.TERMS


async def test_an_error_of_the_fallback_for_terms_reaches_every_caller():
    class Broken(Heuristic):
        def terms(self, snapshot: CatalogSnapshot, rows: IntArray, now: float) -> DoubleArray:
            raise MemoryError

    state = FakeStateHolder(snapshot(THREE), RowScoresModel([0.0, 2.0, 1.0], explained=np.nan))
    ranker = CandidateRanker(state, None, Broken(), stages=Stages(), clock=lambda: NOW)
    outcomes = await ranker.rank_all([query(explain=True)] * 2)
    assert [type(outcome) for outcome in outcomes] == [MemoryError] * 2


@pytest.mark.parametrize("user", [7, 500])
async def test_with_explain_every_candidate_is_ranked_or_has_a_drop_reason(user):
    posts = {10: {}, 20: {"likes": 5}, 30: {"deleted": 1}, 40: {"likes": 3}, 50: {}}
    state = FakeStateHolder(snapshot(posts), RowScoresModel([0.0, 2.0, 9.0, 1.0, -1.0]))
    options: dict[str, Any] = {"limit": 2, "exclude_post_ids": np.array([50])}
    ranking = await rank(state, 99, 50, 40, 30, 20, 10, 10, user=user, explain=True, **options)
    assert ranking.post_ids.tolist() == [20, 40]
    assert list(ranking.dropped_posts.items()) == [
        (10, DropReason.OUTRANKED),
        (30, DropReason.DELETED),
        (50, DropReason.EXCLUDED),
        (99, DropReason.UNKNOWN),
    ]
    assert not (await rank(state, 99, 50, 40, 30, user=user, **options)).dropped_posts


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


async def test_without_known_candidates_the_ranking_is_empty():
    for user in (7, 500):
        ranking = await rank(FakeStateHolder(snapshot({}), RowScoresModel([])), 1, 2, user=user, explain=True)
        assert ranking.post_ids.tolist() == []
        assert ranking.terms is not None
        assert ranking.terms.values.shape[0] == 0


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
