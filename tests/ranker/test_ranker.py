"""The ranker: who answers, in which order, from where, and what it says when the model cannot."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    ScoringFailed,
)
from animora_server.ranker import CandidateRanker
from animora_server.ranker.rank_task import MAX_GROUP_CANDIDATES
from animora_server.ranker.score_provider import CacheAccess
from animora_server.scoring import heuristic
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.terms import MODEL_TERMS
from animora_server.types import (
    BoolArray,
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
from tests.hurry import hurried
from tests.ranker.catalogs import NOW, snapshot


@dataclass
class FakeModel:
    """Scores each catalog row with a given logit, `explained` of it in its terms; knows users below 100.

    Work that has a `poisoned` user in it fails as a bug does.
    """

    logits: list[float]
    version: str = "v1"
    uninformed: set[int] = field(default_factory=set)
    poisoned: set[int] = field(default_factory=set)
    failure: ScoringFailed | None = None
    gate: asyncio.Event | None = None
    answers_at: float = 0.0
    explained: float = 1.0
    calls: int = 0
    running: int = 0
    deadlines: list[float | None] = field(default_factory=list)
    explanations: int = 0
    explaining: int = 0
    most_explaining: int = 0
    explanation_began: asyncio.Event = field(default_factory=asyncio.Event)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    def user_row(self, user_id: int) -> int:
        return user_id if 0 < user_id < 100 else 0

    def user_rows(self, user_ids: IntArray) -> IntArray:
        return np.array([self.user_row(user) for user in user_ids.tolist()])

    def has_features(self, rows: IntArray) -> BoolArray:
        return np.array([row not in self.uninformed for row in rows.tolist()], np.bool_)

    def score(self, user_row: int, rows: IntArray, deadline: float | None) -> "asyncio.Future[FloatArray]":
        return asyncio.ensure_future(self._score(rows, deadline))

    def score_all(
        self, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        assert len(user_rows) == len(sizes)
        assert sizes.sum() == len(rows)
        if self.poisoned.intersection(user_rows.tolist()):
            return asyncio.ensure_future(self._fail())
        return asyncio.ensure_future(self._score(rows, deadline))

    async def _fail(self) -> FloatArray:
        raise IndexError

    async def _score(self, rows: IntArray, deadline: float | None) -> FloatArray:
        self.calls += 1
        self.deadlines.append(deadline)
        self.called.set()
        if self.gate is not None:
            self.running += 1
            try:
                async with asyncio.timeout_at(deadline):
                    await self.gate.wait()
            except TimeoutError as error:
                raise DeadlineUnreachable from error
            finally:
                self.running -= 1
        if self.failure is not None:
            raise self.failure
        if deadline is not None and deadline < self.answers_at:
            raise DeadlineUnreachable
        return np.array(self.logits, np.float32)[rows]

    async def explain(self, user_row: int, rows: IntArray, deadline: float) -> FloatArray:
        if self.failure is not None:
            raise self.failure
        self.explanations += 1
        self.explaining += 1
        self.most_explaining = max(self.most_explaining, self.explaining)
        self.explanation_began.set()
        try:
            await asyncio.sleep(0)
        finally:
            self.explaining -= 1
        terms = np.array(self.logits, np.float32)[rows] * self.explained / len(MODEL_TERMS)
        return np.repeat(terms[:, None], len(MODEL_TERMS), axis=1).astype(np.float32)


@dataclass
class FakePin:
    snapshot: CatalogSnapshot
    active: FakeModel | None = None
    resident: Mapping[str, FakeModel] = field(default_factory=dict)

    def current(self):
        return self


class NoCatalog:
    def current(self) -> None:
        return None


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


class UnfilledCache(FakeCache):
    """Answers a look-up when it is told to, that nothing was found."""

    def __init__(self):
        super().__init__()
        self.asked: list[tuple[int, asyncio.Future[list[FloatArray | None]]]] = []

    def find(
        self, keys: Sequence[bytes], counts: Sequence[int], deadline: float
    ) -> "asyncio.Future[list[FloatArray | None]]":
        found: asyncio.Future[list[FloatArray | None]] = asyncio.get_running_loop().create_future()
        self.asked.append((len(keys), found))
        return found

    def answer(self) -> None:
        keys, found = self.asked.pop(0)
        found.set_result([None] * keys)


class Stages:
    def observe(self, stage: str, seconds: float) -> None:
        assert stage in ("candidates", "cache", "score", "order")
        assert seconds >= 0


def key(model_version: str, user_id: int, post_ids: IntArray, fingerprints: IntArray) -> bytes:
    return repr((model_version, user_id, post_ids.tolist(), fingerprints.tolist())).encode()


def ranker_over(states, cache: FakeCache | None = None) -> CandidateRanker:
    access = CacheAccess(cache, key) if cache else None
    return CandidateRanker(states, access, Heuristic(), max_block_age=600, stages=Stages(), clock=lambda: NOW)


async def rank(
    states, *post_ids: int, user: int = 7, cache: FakeCache | None = None, **options
) -> RankedCandidates:
    timeout = options.pop("timeout", 60)
    deadline = asyncio.get_running_loop().time() + timeout
    query = RankQuery(user_id=user, post_ids=np.array(post_ids, np.int64), deadline=deadline, **options)
    return await ranker_over(states, cache).rank(query)


def query(timeout: float = 60, user: int = 7, posts: tuple[int, ...] = (10, 20, 30), **options) -> RankQuery:
    """A query that keeps half of its time for the heuristic, so that a busy machine can give it in time."""
    deadline = asyncio.get_running_loop().time() + timeout
    options = {"reserve": timeout / 2, **options}
    return RankQuery(user_id=user, post_ids=np.array(posts, np.int64), deadline=deadline, **options)


THREE = {10: {"likes": 1}, 20: {"likes": 5}, 30: {"likes": 9}}


async def test_a_known_user_is_ranked_by_the_model_best_first():
    model = FakeModel([0.0, 2.0, 1.0])
    ranking = await rank(FakePin(snapshot(THREE), model), 10, 20, 30)
    assert ranking.post_ids.tolist() == [20, 30, 10]
    assert ranking.scores.tolist() == pytest.approx([0.880797, 0.731059, 0.5], abs=1e-6)
    assert ranking.ranker is RankerName.NEUCF
    assert ranking.model_version == "v1"
    assert ranking.cache is CacheStatus.BYPASS
    assert ranking.degraded_reason is None


async def test_ties_go_to_the_newer_post_then_to_the_larger_id():
    posts = {1: {"age": 50}, 2: {"age": 50}, 3: {"age": 10}}
    ranking = await rank(FakePin(snapshot(posts), FakeModel([1.0, 1.0, 1.0])), 1, 2, 3)
    assert ranking.post_ids.tolist() == [3, 2, 1]


async def test_a_limit_keeps_the_best_and_drops_count_all_the_same():
    ranking = await rank(FakePin(snapshot(THREE), FakeModel([0.0, 2.0, 1.0])), 10, 20, 30, 99, limit=2)
    assert ranking.post_ids.tolist() == [20, 30]
    assert sum(ranking.dropped.values()) == 1


async def test_a_cold_user_is_ranked_by_the_heuristic_and_that_is_not_degraded():
    ranking = await rank(FakePin(snapshot(THREE), FakeModel([0.0, 2.0, 1.0])), 10, 20, 30, user=500)
    assert ranking.post_ids.tolist() == [30, 20, 10]
    assert ranking.scores.tolist()[0] == pytest.approx(1.0)
    assert ranking.ranker is RankerName.HEURISTIC
    assert ranking.model_version == ""
    assert ranking.degraded_reason is None


async def test_without_a_model_the_heuristic_answers_and_says_so():
    ranking = await rank(FakePin(snapshot(THREE)), 10, 20)
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
async def test_a_model_that_fails_is_replaced_by_the_heuristic_with_the_reason(failure, reason):
    cache = FakeCache()
    model = FakeModel([0.0, 2.0, 1.0], failure=failure)
    ranking = await rank(FakePin(snapshot(THREE), model), 10, 20, 30, cache=cache)
    assert ranking.post_ids.tolist() == [30, 20, 10]
    assert ranking.degraded_reason is reason
    assert cache.stored == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
async def test_scores_that_are_not_finite_are_never_shown(value):
    cache = FakeCache()
    ranking = await rank(FakePin(snapshot(THREE), FakeModel([0.0, value, 1.0])), 10, 20, 30, cache=cache)
    assert ranking.degraded_reason is DegradedReason.INVALID_SCORES
    assert cache.stored == {}


async def test_a_bug_in_the_model_is_not_hidden_behind_the_heuristic():
    with pytest.raises(IndexError):
        await rank(FakePin(snapshot(THREE), FakeModel([])), 10)


async def test_a_model_that_does_not_answer_in_time_is_replaced_before_the_deadline():
    model = FakeModel([0.0, 2.0, 1.0], gate=asyncio.Event())
    ranking = await hurried(lambda timeout: rank(FakePin(snapshot(THREE), model), 10, timeout=timeout))
    assert ranking.degraded_reason is DegradedReason.DEADLINE


async def test_the_model_has_the_time_that_is_not_kept_for_an_answer_without_it():
    model = FakeModel([0.0, 2.0, 1.0])
    asked = query(timeout=60, reserve=50)
    await ranker_over(FakePin(snapshot(THREE), model)).rank(asked)
    assert model.deadlines == [asked.deadline - 50]


async def test_queries_that_the_model_did_not_answer_in_time_fall_back_together():
    model = FakeModel([0.0, 2.0, 1.0], failure=DeadlineUnreachable())
    ranker = ranker_over(FakePin(snapshot(THREE), model))
    rankings = await ranker.rank_all([query(timeout=60, reserve=61)] * 3)
    assert [each.degraded_reason for each in rankings if isinstance(each, RankedCandidates)] == 3 * [
        DegradedReason.DEADLINE
    ]
    assert model.calls == 1


async def test_no_time_even_for_the_heuristic_is_an_error():
    with pytest.raises(DeadlineExpired):
        await rank(FakePin(snapshot(THREE), FakeModel([0.0], failure=DeadlineUnreachable())), 10, timeout=-1)


async def test_a_version_that_is_resident_can_be_asked_for():
    old = FakeModel([3.0, 2.0, 1.0], version="old")
    state = FakePin(snapshot(THREE), FakeModel([1.0, 2.0, 3.0]), {"old": old})
    ranking = await rank(state, 10, 20, 30, model_version="old")
    assert ranking.post_ids.tolist() == [10, 20, 30]
    assert ranking.model_version == "old"
    with pytest.raises(ModelNotResident):
        await rank(state, 10, model_version="never")


async def test_posts_that_the_model_knows_nothing_of_get_the_users_median():
    model = FakeModel([9.0, 2.0, 1.0], uninformed={0})
    ranking = await rank(FakePin(snapshot(THREE), model), 10, 20, 30)
    assert ranking.post_ids.tolist() == [20, 10, 30]
    assert ranking.scores.tolist()[1] == pytest.approx(1 / (1 + np.exp(-1.5)), abs=1e-6)


async def test_no_catalog_or_blocks_that_are_too_old_are_unavailable():
    with pytest.raises(CatalogUnavailable):
        await rank(NoCatalog(), 10)
    with pytest.raises(CatalogUnavailable):
        await rank(FakePin(snapshot(THREE, block_age=601)), 10)


async def test_scores_are_stored_and_the_same_candidates_hit_in_any_order_and_limit():
    cache, model = FakeCache(), FakeModel([0.0, 2.0, 1.0])
    state = FakePin(snapshot(THREE), model)
    first = await rank(state, 10, 20, 30, cache=cache)
    second = await rank(state, 30, 10, 20, 20, limit=1, cache=cache)
    assert (first.cache, second.cache) == (CacheStatus.MISS, CacheStatus.HIT)
    assert second.post_ids.tolist() == [20]
    assert second.scores[0] == first.scores[0]
    assert model.calls == 1


async def test_filters_run_after_the_cache():
    cache, model = FakeCache(), FakeModel([0.0, 2.0, 1.0])
    await rank(FakePin(snapshot(THREE), model), 10, 20, 30, cache=cache)
    blocked = snapshot({10: {}, 20: {"author": 50}, 30: {"deleted": 1}}, blocks=[(50, 7)])
    ranking = await rank(FakePin(blocked, model), 10, 20, 30, cache=cache)
    assert ranking.cache is CacheStatus.HIT
    assert ranking.post_ids.tolist() == [10]


async def test_an_edited_post_misses():
    cache, model = FakeCache(), FakeModel([0.0])
    await rank(FakePin(snapshot({10: {"fingerprint": 1}}), model), 10, cache=cache)
    ranking = await rank(FakePin(snapshot({10: {"fingerprint": 2}}), model), 10, cache=cache)
    assert ranking.cache is CacheStatus.MISS


async def test_refresh_writes_without_reading_and_bypass_does_neither():
    cache, state = FakeCache(), FakePin(snapshot(THREE), FakeModel([0.0, 2.0, 1.0]))
    bypassed = await rank(state, 10, cache=cache, cache_policy=CachePolicy.BYPASS)
    assert (bypassed.cache, cache.reads, len(cache.stored)) == (CacheStatus.BYPASS, 0, 0)
    refreshed = await rank(state, 10, cache=cache, cache_policy=CachePolicy.REFRESH)
    assert (refreshed.cache, cache.reads, len(cache.stored)) == (CacheStatus.BYPASS, 0, 1)


async def test_a_stored_value_that_is_not_finite_is_computed_anew():
    cache, state = FakeCache(), FakePin(snapshot(THREE), FakeModel([0.0, 2.0, 1.0]))
    await rank(state, 10, 20, cache=cache)
    cache.stored = {stored: np.full_like(value, np.nan) for stored, value in cache.stored.items()}
    ranking = await rank(state, 10, 20, cache=cache)
    assert (ranking.cache, ranking.post_ids.tolist()) == (CacheStatus.MISS, [20, 10])


async def test_of_values_found_together_only_those_that_are_not_finite_are_computed_anew():
    cache, state = FakeCache(), FakePin(snapshot(THREE), FakeModel([0.0, 2.0, 1.0]))
    ranker, asked = (
        ranker_over(state, cache),
        [query(posts=posts) for posts in ((10, 20), (20, 30), (10, 30))],
    )
    await ranker.rank_all(asked)
    spoilt = list(cache.stored)[1]
    cache.stored[spoilt] = np.full_like(cache.stored[spoilt], np.nan)
    told = [ranking for ranking in await ranker.rank_all(asked) if isinstance(ranking, RankedCandidates)]
    assert [ranking.cache for ranking in told] == [CacheStatus.HIT, CacheStatus.MISS, CacheStatus.HIT]
    assert [ranking.post_ids.tolist() for ranking in told] == [[20, 10], [20, 30], [30, 10]]


async def test_queries_of_one_call_may_use_the_cache_in_different_ways():
    cache, model = FakeCache(), FakeModel([0.0, 2.0, 1.0])
    ranker = ranker_over(FakePin(snapshot(THREE), model), cache)
    policies = (CachePolicy.DEFAULT, CachePolicy.BYPASS, CachePolicy.REFRESH, CachePolicy.DEFAULT)
    posts = ((10, 20), (20, 30), (10, 30), (99,))
    asked = [query(posts=its, cache_policy=policy) for its, policy in zip(posts, policies, strict=True)]
    for expected in (CacheStatus.MISS, CacheStatus.HIT):
        told = [ranking for ranking in await ranker.rank_all(asked) if isinstance(ranking, RankedCandidates)]
        assert [ranking.cache for ranking in told] == [expected, *[CacheStatus.BYPASS] * 3]
        assert [ranking.post_ids.tolist() for ranking in told] == [[20, 10], [20, 30], [30, 10], []]
    assert len(cache.stored) == 2


async def test_callers_that_miss_together_share_one_computation():
    cache, gate = FakeCache(), asyncio.Event()
    model = FakeModel([0.0, 2.0, 1.0], gate=gate)
    ranker = ranker_over(FakePin(snapshot(THREE), model), cache)
    deadline = asyncio.get_running_loop().time() + 60
    query = RankQuery(user_id=7, post_ids=np.array([10, 20, 30]), deadline=deadline)
    callers = [asyncio.create_task(ranker.rank(query)) for _ in range(500)]
    await model.called.wait()
    callers[0].cancel()  # the one that began the computation
    await asyncio.wait(callers[:1])
    gate.set()
    rankings = await asyncio.gather(*callers[1:])
    assert model.calls == 1
    assert {tuple(ranking.post_ids.tolist()) for ranking in rankings} == {(20, 30, 10)}


async def test_callers_whose_look_ups_are_slower_than_the_computation_share_it_too():
    model, cache = FakeModel([0.0, 2.0, 1.0]), UnfilledCache()
    ranker = ranker_over(FakePin(snapshot(THREE), model), cache)

    def ask(*queries: RankQuery) -> "asyncio.Task[list[RankedCandidates | BaseException]]":
        return asyncio.create_task(ranker.rank_all(queries))

    first, second, third = ask(query()), ask(query(), query(posts=(10, 20))), ask(query())
    while len(cache.asked) < 3:  # noqa: ASYNC110  # a fake wakes nobody
        await asyncio.sleep(0)
    cache.answer()
    rankings = await first
    cache.answer()  # a look-up that began before the scores were computed has not found them
    cache.answer()
    rankings += [*await second, *await third]
    fourth = ask(query())
    while not cache.asked:  # noqa: ASYNC110  # as above
        await asyncio.sleep(0)
    cache.answer()  # they are still on their way into the cache
    rankings += await fourth
    assert [
        (each.post_ids.tolist(), each.cache) for each in rankings if isinstance(each, RankedCandidates)
    ] == [(posts, CacheStatus.MISS) for posts in ([20, 30, 10], [20, 30, 10], [20, 10], *[[20, 30, 10]] * 2)]
    assert model.calls == 2


async def test_callers_with_more_time_share_and_store_a_computation_of_their_own():
    cache, gate = FakeCache(), asyncio.Event()
    now = asyncio.get_running_loop().time()
    model = FakeModel([0.0, 2.0, 1.0], gate=gate, answers_at=now + 40)
    ranker = ranker_over(FakePin(snapshot(THREE), model), cache)
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
    state = FakePin(snapshot(THREE), FakeModel([0.0, 2.0, 1.0]))
    ranking = await rank(state, 10, 20, 30, user=user, explain=True)
    assert ranking.terms is not None
    total = ranking.terms.values.sum(axis=1)
    expected = np.log(ranking.scores / (1 - ranking.scores)) if user == 7 else ranking.scores
    assert total.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert len(ranking.terms.names) == ranking.terms.values.shape[1]


async def test_the_median_of_a_post_that_the_model_knows_nothing_of_belongs_to_no_part_of_it():
    model = FakeModel([9.0, 2.0, 1.0], uninformed={0})
    ranking = await rank(FakePin(snapshot(THREE), model), 10, 20, 30, explain=True)
    assert ranking.terms is not None
    values = dict(zip(ranking.post_ids.tolist(), ranking.terms.values.tolist(), strict=True))
    assert dict(zip(ranking.terms.names, values[10], strict=True)) == {
        **dict.fromkeys(MODEL_TERMS, 0.0),
        "bias": 1.5,
    }
    assert values[20] == pytest.approx([0.25] * 8)


async def test_terms_that_are_not_finite_are_never_shown():
    model = FakeModel([0.0, 2.0, 1.0], explained=np.nan)
    ranking = await rank(FakePin(snapshot(THREE), model), 10, 20, 30, explain=True)
    assert ranking.degraded_reason is DegradedReason.INVALID_SCORES
    assert ranking.terms is not None
    assert ranking.terms.names == heuristic.TERMS


async def test_an_error_of_the_heuristic_that_stands_in_for_terms_reaches_every_caller():
    class Broken(Heuristic):
        def terms(self, snapshot: CatalogSnapshot, rows: IntArray, now: float) -> DoubleArray:
            raise MemoryError

    state = FakePin(snapshot(THREE), FakeModel([0.0, 2.0, 1.0], explained=np.nan))
    ranker = CandidateRanker(state, None, Broken(), max_block_age=600, stages=Stages(), clock=lambda: NOW)
    outcomes = await ranker.rank_all([query(explain=True)] * 2)
    assert [type(outcome) for outcome in outcomes] == [MemoryError] * 2


@pytest.mark.parametrize("user", [7, 500])
async def test_explained_every_candidate_is_in_the_order_or_told_why_not_by_ascending_id(user):
    posts = {10: {}, 20: {"likes": 5}, 30: {"deleted": 1}, 40: {"likes": 3}, 50: {}}
    state = FakePin(snapshot(posts), FakeModel([0.0, 2.0, 9.0, 1.0, -1.0]))
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


async def test_the_terms_of_one_call_are_computed_query_by_query():
    model = FakeModel([0.0, 2.0, 1.0])
    ranker = ranker_over(FakePin(snapshot(THREE), model))
    rankings = await ranker.rank_all([query(explain=True), query(), query(explain=True)])
    assert [isinstance(each, RankedCandidates) and each.terms is not None for each in rankings] == [
        True,
        False,
        True,
    ]
    assert (model.explanations, model.most_explaining) == (2, 1)


async def test_after_its_caller_has_gone_nothing_more_is_explained():
    model = FakeModel([0.0, 2.0, 1.0])
    ranking = asyncio.ensure_future(
        ranker_over(FakePin(snapshot(THREE), model)).rank_all([query(explain=True)] * 3)
    )
    await model.explanation_began.wait()
    ranking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ranking
    while model.explaining:  # noqa: ASYNC110  # a fake wakes nobody
        await asyncio.sleep(0)
    assert model.explanations == 1


async def test_others_go_on_while_a_large_batch_is_ranked():
    ranker = ranker_over(FakePin(snapshot(THREE), FakeModel([0.0, 2.0, 1.0])))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    going_on = asyncio.ensure_future(others())
    rankings = await ranker.rank_all([query(user=500, posts=tuple(range(MAX_GROUP_CANDIDATES)))] * 3)
    going_on.cancel()
    assert turns == 2
    assert [each.post_ids.tolist() for each in rankings if isinstance(each, RankedCandidates)] == [
        [30, 20, 10]
    ] * 3


async def test_a_batch_that_is_cancelled_between_its_turns_leaves_no_work():
    model = FakeModel([0.0, 2.0, 1.0], gate=asyncio.Event())
    many = query(posts=tuple(range(MAX_GROUP_CANDIDATES)))
    batch = asyncio.ensure_future(ranker_over(FakePin(snapshot(THREE), model)).rank_all([many] * 3))
    await asyncio.sleep(0)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    while model.running:  # noqa: ASYNC110  # a fake wakes nobody
        await asyncio.sleep(0)
    assert model.calls <= 1


async def test_nothing_to_rank_is_an_empty_order():
    for user in (7, 500):
        ranking = await rank(FakePin(snapshot({}), FakeModel([])), 1, 2, user=user, explain=True)
        assert ranking.post_ids.tolist() == []
        assert ranking.terms is not None
        assert ranking.terms.values.shape[0] == 0


async def test_queries_asked_together_have_outcomes_of_their_own_in_order():
    model = FakeModel([0.0, 2.0, 1.0])
    ranker = ranker_over(FakePin(snapshot(THREE), model))
    cold, unknown, late, warm = await ranker.rank_all(
        [query(user=500), query(model_version="never"), query(timeout=-1), query()]
    )
    assert isinstance(cold, RankedCandidates)
    assert cold.ranker is RankerName.HEURISTIC
    assert isinstance(unknown, ModelNotResident)
    assert isinstance(late, RankedCandidates)  # the fake model answers however late it is
    assert isinstance(warm, RankedCandidates)
    assert warm.post_ids.tolist() == [20, 30, 10]


async def test_queries_that_are_due_together_are_one_piece_of_work():
    model = FakeModel([0.0, 2.0, 1.0])
    ranker = ranker_over(FakePin(snapshot(THREE), model))
    now = asyncio.get_running_loop().time()
    asked = [
        replace(query(posts=posts), deadline=now + timeout)
        for posts, timeout in (((10, 20), 60), ((30,), 60.001), ((20, 30, 99), 60), ((10,), 61))
    ]
    rankings = await ranker.rank_all(asked)
    shown = [ranking.post_ids.tolist() for ranking in rankings if isinstance(ranking, RankedCandidates)]
    assert shown == [[20, 10], [30], [20, 30], [10]]
    assert model.calls == 2


async def test_work_that_fails_for_some_is_done_for_each_alone():
    model = FakeModel([0.0, 2.0, 1.0], poisoned={8})
    ranker = ranker_over(FakePin(snapshot(THREE), model))
    first, bad, second = await ranker.rank_all([query(), query(user=8), query(user=9)])
    assert isinstance(bad, IndexError)
    for ranking in (first, second):
        assert isinstance(ranking, RankedCandidates)
        assert ranking.ranker is RankerName.NEUCF


class BrokenModel(FakeModel):
    """Fails before there is a future."""

    def score_all(
        self, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        raise IndexError


async def test_after_a_bug_nothing_goes_on_for_those_who_were_told_of_it():
    slow, broken = FakeModel([0.0, 2.0, 1.0], gate=asyncio.Event()), BrokenModel([], "v2")
    ranker = ranker_over(FakePin(snapshot(THREE), slow, {"v2": broken}))
    for outcome in await ranker.rank_all([query(), query(user=8), query(model_version="v2")]):
        assert isinstance(outcome, IndexError)
    await asyncio.sleep(0.01)
    assert (slow.running, slow.called.is_set()) == (0, False)


async def test_the_devices_fault_is_nobodys_and_is_not_asked_for_again():
    model = FakeModel([0.0, 2.0, 1.0], failure=DeviceFault())
    rankings = await ranker_over(FakePin(snapshot(THREE), model)).rank_all([query(), query()])
    for ranking in rankings:
        assert isinstance(ranking, RankedCandidates)
        assert ranking.degraded_reason is DegradedReason.DEVICE_FAULT
    assert model.calls == 1


async def test_work_for_several_goes_on_until_the_last_of_them_has_gone():
    model = FakeModel([0.0, 2.0, 1.0], gate=asyncio.Event())
    ranker = ranker_over(FakePin(snapshot(THREE), model))
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
    """Answers look-ups when it is told to."""

    def __init__(self):
        super().__init__()
        self.asked: list[asyncio.Future[list[FloatArray | None]]] = []

    def find(
        self, keys: Sequence[bytes], counts: Sequence[int], deadline: float
    ) -> "asyncio.Future[list[FloatArray | None]]":
        self.asked.append(asyncio.get_running_loop().create_future())
        return self.asked[-1]


async def test_what_was_looked_up_together_is_computed_for_those_alone_who_still_wait():
    model, cache = FakeModel([0.0, 2.0, 1.0]), SlowCache()
    ranker = ranker_over(FakePin(snapshot(THREE), model), cache)
    callers = [asyncio.create_task(ranker.rank(query(user=user))) for user in (7, 8, 9)]
    while not cache.asked:  # noqa: ASYNC110  # it has no event for that
        await asyncio.sleep(0)
    for caller in callers[:2]:
        caller.cancel()
    await asyncio.gather(*callers[:2], return_exceptions=True)
    (looked_up,) = cache.asked
    looked_up.set_result([None] * 3)
    assert (await callers[2]).cache is CacheStatus.MISS
    assert model.calls == 1


async def test_a_group_is_of_one_model_however_they_alternate():
    models = {name: FakeModel([0.0, 2.0, 1.0], version=name) for name in ("v1", "v2")}
    ranker = ranker_over(FakePin(snapshot(THREE), models["v1"], models))
    rankings = await ranker.rank_all([query(model_version=name) for name in ("v1", "v2", "v1", "v2")])
    told = [ranking.model_version for ranking in rankings if isinstance(ranking, RankedCandidates)]
    assert told == ["v1", "v2", "v1", "v2"]
    assert [model.calls for model in models.values()] == [1, 1]


async def test_nobody_waits_for_a_neighbours_scores():
    gate, cache = asyncio.Event(), FakeCache()
    slow = FakeModel([0.0, 2.0, 1.0], gate=gate)
    quick = FakeModel([0.0, 2.0, 1.0], version="quick")
    ranker = ranker_over(FakePin(snapshot(THREE), slow, {"quick": quick}), cache)
    waiting = asyncio.create_task(ranker.rank(query()))
    others = await asyncio.gather(
        ranker.rank(query(model_version="quick")),
        ranker.rank(query(user=500)),
        hurried(lambda timeout: ranker.rank(query(timeout))),
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
async def test_what_is_computed_for_one_caller_ends_with_them(policy):
    model = FakeModel([0.0, 2.0, 1.0], gate=asyncio.Event())
    ranker = ranker_over(FakePin(snapshot(THREE), model), FakeCache())
    caller = asyncio.create_task(ranker.rank(query(cache_policy=policy)))
    batch = asyncio.create_task(ranker.rank_all([query(cache_policy=policy, posts=(10,))]))
    while model.calls < 2:  # noqa: ASYNC110  # it has no event for that
        await asyncio.sleep(0)
    caller.cancel()
    batch.cancel()
    await asyncio.wait((caller, batch))
    while model.running:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert caller.cancelled()
    assert batch.cancelled()
