"""Providing timelines: freshness, single-flight, deadlines, background refreshes, admission."""

import asyncio
import math
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_server.degradation import Freshness
from animora_server.errors import DeadlineExpired, DeadlineUnreachable, Overloaded, TooManyRequests
from animora_server.timeline import LocalTimelineStore
from animora_server.timeline.provider import BuildRequest, freshness
from animora_server.types import (
    CachePolicy,
    CacheStatus,
    DegradedReason,
    RankedTimeline,
    RankerName,
    TimelineQuery,
)
from tests.timeline.worlds import LOGITS, USER, World

TIMELINE = RankedTimeline(
    b"i" * 16, np.empty(0, np.int64), np.empty(0, np.float32), RankerName.NEUCF, "v1", 1000.0, 1300.0, 990.0
)


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (1000.0, Freshness.FRESH),
        (1299.9, Freshness.FRESH),
        (1300.0, Freshness.STALE),
        (1899.9, Freshness.STALE),
        (1900.0, Freshness.EXPIRED),
    ],
)
def test_a_timeline_is_fresh_then_stale_then_expired(now, expected):
    assert freshness(TIMELINE, now, stale_ttl=600.0, beta=1.0, draw=0.5) is expected


def test_a_costly_timeline_is_refreshed_earlier():
    now, draw = 1299.0, math.exp(-2)  # two costs early

    assert freshness(replace(TIMELINE, cost=0.4), now, 600.0, 1.0, draw) is Freshness.FRESH
    assert freshness(replace(TIMELINE, cost=0.6), now, 600.0, 1.0, draw) is Freshness.DUE
    assert freshness(replace(TIMELINE, cost=0.4), now, 600.0, 2.0, draw) is Freshness.DUE


@given(draw=st.floats(min_value=0, max_value=1, exclude_min=True), cost=st.floats(0, 100))
def test_with_a_beta_of_zero_nothing_is_refreshed_early(draw, cost):
    assert freshness(replace(TIMELINE, cost=cost), 1299.9, 600.0, 0.0, draw) is Freshness.FRESH


async def test_a_slow_store_leaves_time_for_the_heuristic(world):
    async def no_answer(key, answer_by):
        await asyncio.sleep(answer_by - asyncio.get_running_loop().time())

    world.store.latest = no_answer

    assert (await world.page_with_short_timeout()).degraded_reason is DegradedReason.DEADLINE


async def test_a_built_timeline_does_not_wait_for_a_slow_store(world):
    async def never(key, snapshot):
        await asyncio.Event().wait()

    world.store.put_latest = never

    for timeout in (0.1, 0.4, 1.6, 6.4, 25.6):  # a busy machine may leave no time for the model
        with suppress(DeadlineExpired):
            page = await world.page(timeout=timeout)
            if page.degraded_reason is None:
                break

    assert (page.degraded_reason, page.ranker) == (None, RankerName.NEUCF)
    await world.provider.aclose()


async def test_when_the_model_refuses_a_deadline_the_heuristic_answers_and_the_timeline_is_built_later(world):
    world.model.least_time = 60

    page = await world.page(timeout=30)
    await world.store.until_latest(1)

    assert page.degraded_reason is DegradedReason.DEADLINE
    assert world.refreshes.why == ["degraded"]
    assert (await world.page(timeout=30)).ranker is RankerName.NEUCF


async def test_a_caller_who_joined_a_build_that_ran_out_of_time_starts_another(world):
    world.model.least_time = 60
    world.model.gate = asyncio.Event()
    hasty = asyncio.create_task(world.page(timeout=30))
    patient = asyncio.create_task(world.page(timeout=300))
    world.model.gate.set()

    assert (await hasty).degraded_reason is DegradedReason.DEADLINE
    assert (await patient).ranker is RankerName.NEUCF


async def test_callers_within_a_second_share_one_fallback(world):
    world.model.failure = Overloaded()

    first, second = await world.page(), await world.page()
    world.clock.now += 2.0
    world.monotonic.now += 2.0
    third = await world.page()

    assert first.scores.tolist() == second.scores.tolist() != third.scores.tolist()
    assert len(world.store.kept) == 2


async def test_a_fallback_is_not_shared_for_longer_when_the_clock_is_set_back(world):
    world.model.failure = Overloaded()

    await world.page()
    world.clock.now -= 3600
    world.monotonic.now += 2.0
    await world.page()
    await world.provider.aclose()

    assert len(world.store.kept) == 2


async def test_a_call_that_stores_nothing_starts_no_refresh(world):
    bypass = TimelineQuery(USER, page_size=10, deadline=0.0, cache_policy=CachePolicy.BYPASS)

    request = BuildRequest(b"key", bypass, world.state.current(), world.ranker)
    world.provider.refresh_in_background(request, "newer")

    assert world.refreshes.why == []


async def test_a_refresh_does_not_replace_a_timeline_that_was_built_after_it_began(world):
    await world.page()
    world.clock.now += world.settings.ttl * 1.1
    world.model.background_gate = asyncio.Event()
    world.model.called.clear()
    await world.page()
    await world.model.called.wait()
    (renewal,) = (task for task in asyncio.all_tasks() if task.get_name() == "timeline-refresh")
    world.state.activate(LOGITS, "v2")

    await world.page()
    world.state.resident["v1"].background_gate.set()
    await asyncio.wait([renewal])

    assert (await world.page()).cache is CacheStatus.HIT


async def test_a_refresh_that_is_cancelled_before_it_runs_does_not_block_the_next(world):
    await world.page()
    world.clock.now += world.settings.ttl * 1.1

    await world.page()
    await world.provider.aclose()
    await world.page()

    assert world.refreshes.why == ["stale", "stale"]
    await world.provider.aclose()


async def test_a_refresh_that_fails_stores_nothing(world):
    await world.page()
    world.clock.now += world.settings.ttl * 1.1
    world.model.failure = Overloaded()
    world.model.called.clear()

    assert (await world.page()).cache is CacheStatus.STALE
    await world.model.called.wait()
    await world.provider.aclose()

    assert not world.store.kept
    assert len(world.store.put_as_latest) == 1


async def test_a_call_with_refresh_does_not_join_an_earlier_build(world):
    world.model.gate = asyncio.Event()
    one = asyncio.create_task(world.page())
    await world.model.called.wait()
    two = asyncio.create_task(world.page(cache_policy=CachePolicy.REFRESH))
    world.model.gate.set()
    await asyncio.gather(one, two)

    assert world.model.calls == 2


async def test_a_call_after_a_model_swap_does_not_join_a_build_by_the_previous_model(world):
    world.model.gate = asyncio.Event()
    before = asyncio.create_task(world.page())
    await world.model.called.wait()
    world.state.activate(LOGITS, "v2")
    after = asyncio.create_task(world.page())
    world.model.gate.set()

    assert (await before).model_version == "v1"
    assert (await after).model_version == "v2"


async def test_a_miss_does_not_wait_for_a_background_refresh(world):
    await world.page()
    world.clock.now += world.settings.ttl * 1.1
    world.model.background_gate = asyncio.Event()  # never

    assert (await world.page()).cache is CacheStatus.STALE
    page = await world.page(cache_policy=CachePolicy.REFRESH)

    assert page.degraded_reason is None
    await world.provider.aclose()


async def test_builds_beyond_the_admission_limit_are_refused_and_hits_are_not(world):
    await world.page(8)
    world.model.gate = asyncio.Event()
    making = [asyncio.create_task(world.page(user)) for user in range(10, 43)]  # 33 x 30 candidates
    while len(world.model.deadlines) < 34:
        world.model.called.clear()
        await world.model.called.wait()

    with pytest.raises(TooManyRequests):
        await world.page(USER)
    assert (await world.page(8)).cache is CacheStatus.HIT
    world.model.gate.set()
    await asyncio.gather(*making)
    assert (await world.page(USER)).ranker is RankerName.NEUCF


async def test_an_unreachable_deadline_is_the_reason_of_the_fallback(world):
    world.model.failure = DeadlineUnreachable()

    assert (await world.page()).degraded_reason is DegradedReason.DEADLINE


async def test_a_timeline_that_the_store_lost_at_once_is_stored_again_and_not_built_again(world):
    first = await world.page()
    world.store.store = LocalTimelineStore(2400.0, world.clock)

    again = await world.page()
    rest = await world.page(page_token=first.next_page_token)

    assert world.model.calls == 1
    assert again.post_ids.tolist() == first.post_ids.tolist()
    assert not set(rest.post_ids.tolist()) & set(first.post_ids.tolist())
