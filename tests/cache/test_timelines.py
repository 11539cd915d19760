"""Timelines in a real Redis, while it works and while it fails."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

import pytest
import redis.asyncio
from redis.asyncio import Redis

from animora_demo.embedded import EmbeddedRedis
from animora_server.cache.timeline_codec import latest_key, stored_timeline_key
from tests.support.redis_stores import (
    KEY,
    NOW,
    TIMELINE,
    Stores,
    lives,
    make_full,
    make_generation,
    make_read_only,
    make_timeline,
    name_of,
    of_generation,
    until_deleted,
)
from tests.support.until import HANG_TIMEOUT, until

PREFIX = b"animora:"
POINTER = latest_key(PREFIX, KEY)

Start = Callable[[], Awaitable[EmbeddedRedis]]
Freeze = Callable[[int], AbstractContextManager[None]]


async def test_a_user_without_a_timeline_has_none(stores: Stores):
    assert await stores.timelines.latest(KEY) is None
    assert await stores.timelines.by_id(KEY, b"s" * 16) is None
    assert stores.lookup_count("miss") == 2


async def test_the_latest_timeline_is_found_as_latest_and_by_its_id(stores: Stores):
    made = make_timeline()
    assert await stores.timelines.put_latest(KEY, made)
    for found in (
        await stores.timelines.latest(KEY),
        await stores.timelines.by_id(KEY, made.timeline_id),
    ):
        assert found is not None
        assert found.post_ids.tolist() == made.post_ids.tolist()
        assert found.scores.tolist() == made.scores.tolist()
        assert (found.made_at, found.fresh_until) == (made.made_at, made.fresh_until)
    assert stores.lookup_count("hit") == 2


async def test_a_timeline_put_without_latest_is_found_by_its_id_only(stores: Stores):
    kept = make_timeline()
    assert await stores.timelines.put(KEY, kept)
    assert await stores.timelines.latest(KEY) is None
    assert name_of(await stores.timelines.by_id(KEY, kept.timeline_id)) == kept.timeline_id


async def test_a_replaced_timeline_can_still_be_found_by_its_id(stores: Stores):
    first, second = make_timeline(), make_timeline(NOW + 1)
    for made in (first, second):
        await stores.timelines.put_latest(KEY, made)
    assert name_of(await stores.timelines.latest(KEY)) == second.timeline_id
    assert name_of(await stores.timelines.by_id(KEY, first.timeline_id)) == first.timeline_id


async def test_timelines_of_different_users_options_and_settings_are_separate(stores: Stores):
    await stores.timelines.put_latest(KEY, make_timeline())
    for other in (KEY.replace(b"7", b"8"), KEY.replace(b"new", b"all"), KEY.replace(b"f:", b"e:")):
        assert await stores.timelines.latest(other) is None
        assert await stores.timelines.by_id(other, make_timeline().timeline_id) is None


async def test_a_lookup_waits_for_a_timeline_that_another_process_is_still_writing(stores: Stores):
    now = asyncio.get_running_loop().time()
    made = make_timeline()
    waiting = asyncio.ensure_future(stores.timelines.by_id(KEY, made.timeline_id, now + 60, now + 60))
    await until(lambda: stores.lookup_count("miss") > 1)
    await stores.timelines.put(KEY, made)
    assert name_of(await waiting) == made.timeline_id
    assert await stores.timelines.by_id(KEY, b"gone".ljust(16), now + 60, now) is None


async def test_a_late_answer_of_redis_does_not_mean_that_a_timeline_is_gone(
    embedded_redis: Start, frozen: Freeze
):
    server = await embedded_redis()
    async with Stores(server.url, timeout=0.02) as stores:
        await stores.until_stored(make_timeline())
        now = asyncio.get_running_loop().time()
        with frozen(server.pid):
            waiting = asyncio.ensure_future(
                stores.timelines.by_id(KEY, make_timeline().timeline_id, now + 60, now)
            )
            await until(lambda: stores.lookup_count("error") > 0)
        assert name_of(await waiting) == make_timeline().timeline_id


async def test_a_lookup_of_the_latest_timeline_ends_at_its_callers_deadline(
    embedded_redis: Start, frozen: Freeze
):
    server = await embedded_redis()
    async with Stores(server.url) as stores:
        await stores.until_stored(make_timeline())
        now = asyncio.get_running_loop().time()
        with frozen(server.pid):
            patient = asyncio.ensure_future(stores.timelines.latest(KEY))
            assert await stores.timelines.latest(KEY, now) is None
            assert not patient.done()
        assert name_of(await patient) == make_timeline().timeline_id


async def test_a_precomputed_timeline_from_the_future_does_not_hide_later_live_ones(stores: Stores):
    await stores.publish(make_generation(NOW + 40 * 86_400), KEY)
    assert await stores.timelines.latest(KEY) is None
    await stores.timelines.put_latest(KEY, make_timeline())
    assert name_of(await stores.timelines.latest(KEY)) == make_timeline().timeline_id


@pytest.mark.parametrize(("age", "precomputed_wins"), [(-1, True), (0, True), (1, False)])
async def test_of_a_precomputed_and_a_live_timeline_the_newer_is_the_latest(
    stores: Stores, age: float, precomputed_wins: bool
):
    generation, live = make_generation(), make_timeline(NOW + age)
    await stores.publish(generation, KEY)
    await stores.timelines.put_latest(KEY, live)
    newer = generation.generation_id if precomputed_wins else live.timeline_id
    assert name_of(await stores.timelines.latest(KEY)) == newer


async def test_concurrent_lookups_of_precomputed_timelines_share_round_trips(stores: Stores):
    users = [b"{%d}:digest:new" % user for user in range(300)]
    generation = make_generation()
    await stores.publish(generation, *users)
    before = stores.sample("animora_cache_round_trip_seconds_count", {})
    found = await asyncio.gather(*(stores.timelines.latest(user) for user in users))
    assert [name_of(snapshot) for snapshot in found] == [generation.generation_id] * len(users)
    # One look-up is under way while the others queue; the watch reads in between.
    assert stores.sample("animora_cache_round_trip_seconds_count", {}) - before < 20


async def test_a_pointer_to_a_timeline_that_is_gone_is_a_miss(stores: Stores, client: Redis):
    live = make_timeline()
    await stores.timelines.put_latest(KEY, live)
    await client.delete(stored_timeline_key(PREFIX, live.timeline_id, KEY))
    assert await stores.timelines.latest(KEY) is None


async def test_if_the_live_timeline_is_gone_the_precomputed_is_the_latest(stores: Stores, client: Redis):
    generation, live = make_generation(), make_timeline(NOW + 1)
    await stores.publish(generation, KEY)
    await stores.timelines.put_latest(KEY, live)
    await client.delete(stored_timeline_key(PREFIX, live.timeline_id, KEY))
    assert name_of(await stores.timelines.latest(KEY)) == generation.generation_id


async def test_every_key_outlives_the_last_token_and_expiries_are_jittered(stores: Stores, client: Redis):
    for user in range(20):
        key = b"{%d}:digest:new" % user
        await stores.timelines.put_latest(key, make_timeline())
        await stores.timelines.put(key, make_timeline(name=b"kept"))
    least = 1000 * (300 + TIMELINE.stale_ttl + TIMELINE.token_ttl)
    found = await lives(client)
    assert len(found) == 60
    assert all(least - 60_000 < life <= 1.1 * least + 1 for life in found.values())
    assert max(found.values()) - min(found.values()) > 10_000


@pytest.mark.failure(22)
@pytest.mark.parametrize("poison", [b"", b"poison", b"anl\x01" + bytes(100), bytes(2**16)])
async def test_an_unreadable_timeline_is_a_miss_and_is_deleted(stores: Stores, client: Redis, poison: bytes):
    live = make_timeline()
    await stores.timelines.put_latest(KEY, live)
    stored = stored_timeline_key(PREFIX, live.timeline_id, KEY)
    await client.set(stored, poison)
    assert await stores.timelines.latest(KEY) is None
    assert stores.lookup_count("unreadable") == 1
    await until_deleted(client, stored)


@pytest.mark.failure(22)
@pytest.mark.parametrize("poison", [b"", b"poison", b"anp\x01" + bytes(32), bytes(2**16)])
async def test_an_unreadable_pointer_is_a_miss_and_is_deleted(stores: Stores, client: Redis, poison: bytes):
    await client.set(POINTER, poison)
    assert await stores.timelines.latest(KEY) is None
    assert (stores.lookup_count("unreadable"), stores.lookup_count("miss")) == (1, 1)
    await until_deleted(client, POINTER)


async def test_if_the_precomputed_timeline_is_unreadable_the_live_one_is_the_latest(
    stores: Stores, client: Redis
):
    generation, live = make_generation(), make_timeline(NOW - 1)
    await stores.publish(generation, KEY)
    await stores.timelines.put_latest(KEY, live)
    await client.set(stored_timeline_key(PREFIX, generation.generation_id, KEY), b"poison")
    assert name_of(await stores.timelines.latest(KEY)) == live.timeline_id


async def test_values_under_other_keys_are_misses(stores: Stores, client: Redis):
    await stores.timelines.put_latest(b"{8}:digest:new", make_timeline())
    live = make_timeline()
    other = stored_timeline_key(PREFIX, live.timeline_id, b"{8}:digest:new")
    await client.rename(other, stored_timeline_key(PREFIX, live.timeline_id, KEY))
    await client.rename(latest_key(PREFIX, b"{8}:digest:new"), POINTER)
    assert await stores.timelines.latest(KEY) is None
    assert await stores.timelines.by_id(KEY, live.timeline_id) is None


@pytest.mark.failure(21)
async def test_the_timelines_of_cancelled_lookups_are_never_returned_to_other_callers(stores: Stores):
    users = [b"{%d}:digest:new" % user for user in range(40)]
    for user in users:
        await stores.timelines.put_latest(user, make_timeline(name=user[:4]))
    for turns in range(20):
        tasks = [asyncio.create_task(stores.timelines.latest(user)) for user in users]
        for _ in range(turns % 7):
            await asyncio.sleep(0)  # so that the cancellation meets the round trips at various steps
        for task in tasks[turns % 2 :: 2]:
            task.cancel()
        for user, task in zip(users, tasks, strict=True):
            await asyncio.wait([task])
            if not task.cancelled():
                assert name_of(task.result()) == make_timeline(name=user[:4]).timeline_id


async def test_a_flushed_redis_is_a_miss_for_timelines_and_for_the_generation(stores: Stores, client: Redis):
    generation, live = make_generation(), make_timeline(NOW + 1)
    await stores.publish(generation, KEY)
    await stores.timelines.put_latest(KEY, live)
    await client.flushall()
    assert await stores.timelines.latest(KEY) is None
    assert await stores.timelines.by_id(KEY, live.timeline_id) is None
    await until(lambda: stores.watch.current is None)


@pytest.mark.failure(20)
@pytest.mark.parametrize("refuse_writes", [make_full, make_read_only])
async def test_a_redis_that_refuses_writes_stores_nothing_reports_that_and_still_answers(
    refuse_writes: Callable[[Redis], Awaitable[None]], embedded_redis: Start
):
    server = await embedded_redis()
    async with Stores(server.url) as stores, redis.asyncio.from_url(server.url) as client:
        live = make_timeline()
        assert await stores.timelines.put_latest(KEY, live)
        await refuse_writes(client)
        assert not await stores.timelines.put_latest(KEY, make_timeline(NOW + 1))
        assert not await stores.timelines.put(KEY, make_timeline(NOW + 2))
        assert name_of(await stores.timelines.latest(KEY)) == live.timeline_id
        assert not stores.is_skipped


async def test_a_lookup_does_not_wait_for_a_timeline_that_a_full_redis_refused(embedded_redis: Start):
    server = await embedded_redis()
    async with (
        asyncio.timeout(HANG_TIMEOUT / 4),
        Stores(server.url, timeout=60) as stores,
        Stores(server.url, timeout=60) as others,
        redis.asyncio.from_url(server.url) as client,
    ):
        await make_full(client)
        there, elsewhere = make_timeline(), make_timeline(NOW + 1)
        assert not await others.timelines.put_latest(KEY, elsewhere)
        assert not await stores.timelines.put_latest(KEY, there)
        long = asyncio.get_running_loop().time() + HANG_TIMEOUT
        assert await stores.timelines.by_id(KEY, elsewhere.timeline_id, long, long) is None


async def test_once_redis_has_room_a_lookup_waits_for_another_processs_late_write_again(
    embedded_redis: Start,
):
    server = await embedded_redis()
    async with (
        asyncio.timeout(HANG_TIMEOUT),
        Stores(server.url) as stores,
        Stores(server.url) as others,
        redis.asyncio.from_url(server.url) as client,
    ):
        await make_full(client)
        assert not await stores.timelines.put_latest(KEY, make_timeline())
        assert stores.redis.is_full
        await client.config_set("maxmemory", "0")
        assert await stores.timelines.put_latest(KEY, make_timeline())
        assert not stores.redis.is_full
        long, late = asyncio.get_running_loop().time() + HANG_TIMEOUT, make_timeline(NOW + 1)
        waiting = asyncio.create_task(stores.timelines.by_id(KEY, late.timeline_id, long, long))
        misses = stores.lookup_count("miss")
        await until(lambda: stores.lookup_count("miss") > misses)
        await others.until_stored(late)
        assert name_of(await waiting) == late.timeline_id


@pytest.mark.failure(20)
async def test_a_frozen_redis_is_skipped_until_it_thaws(embedded_redis: Start, frozen: Freeze):
    server = await embedded_redis()
    async with Stores(server.url, timeout=0.02) as stores:
        generation, live = make_generation(), make_timeline(NOW + 1)
        await stores.publish(generation, KEY)
        await stores.until_stored(live)
        with frozen(server.pid):
            assert not await stores.timelines.put(KEY, make_timeline(NOW + 2))
            await stores.fail_until_skipped()
            assert await stores.timelines.by_id(KEY, live.timeline_id) is None
            assert not await stores.timelines.put_latest(KEY, make_timeline(NOW + 3))
            assert stores.lookup_count("skipped") > 0
            # The generation stays current: its timelines are there when Redis is back.
            assert stores.watch.current == generation
        await until(lambda: not stores.is_skipped)
        await stores.until_latest(live)


async def test_a_killed_redis_is_skipped_until_it_is_back(embedded_redis: Start):
    server = await embedded_redis()
    async with Stores(server.url, timeout=0.02) as stores:
        await stores.publish(make_generation(), KEY)
        os.kill(server.pid, signal.SIGKILL)
        await stores.fail_until_skipped()
        await server.stop()
        await server.start()
        await stores.until_stored(make_timeline())
        await stores.until_latest(make_timeline())
        await until(lambda: stores.watch.current is None)


async def test_precomputed_timelines_are_encoded_like_live_ones(stores: Stores):
    generation = make_generation()
    await stores.publish(generation, KEY)
    found = await stores.timelines.latest(KEY)
    meant = of_generation(generation)
    assert found is not None
    assert found.post_ids.tolist() == meant.post_ids.tolist()
    assert (found.made_at, found.fresh_until, found.read_at) == (
        meant.made_at, meant.fresh_until, meant.read_at,
    )  # fmt: skip
