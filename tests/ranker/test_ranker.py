"""The ranker: model or heuristic, order, fallback, explain terms."""

import asyncio
from typing import Any

import numpy as np
import pytest

from animora_server.errors import (
    CatalogUnavailable,
    DeadlineExpired,
    DeadlineUnreachable,
    DeviceFault,
    ModelNotResident,
    Overloaded,
)
from animora_server.scoring import heuristic
from animora_server.scoring.serving_state import ServingStateHolder
from animora_server.scoring.terms import MODEL_TERMS
from animora_server.types import (
    CacheStatus,
    DegradedReason,
    DropReason,
    RankerName,
)
from tests.ranker.rankings import (
    THREE,
    FakeCache,
    query,
    rank,
    ranker_over,
)
from tests.support.catalogs import snapshot
from tests.support.deadlines import with_short_timeout
from tests.support.models import FakeStateHolder, RowScoresModel


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


@pytest.mark.failure(9)
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


async def test_a_bug_in_the_model_is_not_hidden_behind_the_heuristic():
    with pytest.raises(IndexError):
        await rank(FakeStateHolder(snapshot(THREE), RowScoresModel([])), 10)


@pytest.mark.failure(9)
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


@pytest.mark.failure(9)
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


async def test_without_known_candidates_the_ranking_is_empty():
    for user in (7, 500):
        ranking = await rank(FakeStateHolder(snapshot({}), RowScoresModel([])), 1, 2, user=user, explain=True)
        assert ranking.post_ids.tolist() == []
        assert ranking.terms is not None
        assert ranking.terms.values.shape[0] == 0
