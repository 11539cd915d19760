"""Generations of precomputed timelines in a real Redis: built, made current, watched, retired."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from redis.asyncio import Redis

from animora_demo.embedded import EmbeddedRedis
from animora_server.cache.generation_codec import (
    building_generation_key,
    current_generation_key,
    decode_generation,
    encode_generation,
    finished_shards_key,
    generation_posts_key,
)
from animora_server.cache.queues import UnreadableValue
from animora_server.cache.timeline_codec import stored_timeline_key
from animora_server.errors import GenerationGone, StoreError
from animora_server.precompute.generation_store import RedisGenerations
from animora_server.settings import CacheSettings
from animora_server.types import Generation
from tests.support.redis_stores import (
    KEY,
    NOW,
    PRECOMPUTE,
    TIMELINE,
    Stores,
    lives,
    make_full,
    make_generation,
    make_timeline,
    name_of,
    of_generation,
)
from tests.support.until import until

CURRENT = current_generation_key(b"animora:")
BUILDING = building_generation_key(b"animora:")
USERS = [b"{%d}:digest:new" % user for user in range(2500)]

Start = Callable[[], Awaitable[EmbeddedRedis]]


@given(
    st.builds(
        Generation,
        st.binary(min_size=16, max_size=16),
        *[st.floats(allow_nan=False, allow_infinity=False)] * 2,
        *[st.text(st.characters(codec="utf-8"))] * 3,
        st.integers(1, 2**31),
    )
)
def test_a_decoded_record_equals_the_encoded_one(generation: Generation):
    assert decode_generation(encode_generation(generation)) == generation


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"generation_id": "ff"},
        {"made_at": "yesterday"},
        {"made_at": None},
        {"shards": 0},
        {"shards": 1.5},
        {"more": 1},
    ],
)
def test_a_record_of_another_format_is_refused(change: dict[str, object]):
    record = json.loads(encode_generation(make_generation())) | change
    with pytest.raises(UnreadableValue):
        decode_generation(json.dumps(record).encode())


@given(st.binary(max_size=100))
def test_bytes_in_another_format_are_refused(value: bytes):
    with pytest.raises(UnreadableValue):
        decode_generation(value)


async def test_an_empty_redis_has_no_generation(generations: RedisGenerations):
    assert await generations.current() is None


async def test_one_generation_is_built_at_a_time_and_a_second_beginning_joins_it(
    generations: RedisGenerations,
):
    first, second = make_generation(), make_generation(NOW + 1, name=b"another")
    assert await generations.begin(first) == first
    assert await generations.begin(second) == first
    await generations.abandon(second)  # abandoning one generation leaves the other
    assert await generations.begin(second) == first
    await generations.abandon(first)
    assert await generations.begin(second) == second


async def test_of_many_concurrent_begins_one_wins_and_the_rest_join(generations: RedisGenerations):
    offered = [make_generation(NOW + n, name=b"%d" % n) for n in range(20)]
    begun = await asyncio.gather(*map(generations.begin, offered))
    assert len({generation.generation_id for generation in begun}) == 1


async def test_timelines_are_present_once_they_are_put(generations: RedisGenerations):
    generation = make_generation()
    await generations.begin(generation)
    assert await generations.are_stored(generation, USERS) == [False] * len(USERS)
    made = of_generation(generation, posts=100)
    await generations.put(generation, [(user, made) for user in USERS[::2]])
    assert await generations.are_stored(generation, USERS) == [True, False] * (len(USERS) // 2)
    assert await generations.are_stored(generation, []) == []
    other = make_generation(NOW + 1, name=b"another")
    assert await generations.are_stored(other, USERS[:2]) == [False, False]


async def test_a_generation_is_served_once_its_last_shard_is_done_and_not_before(stores: Stores):
    generations, generation = stores.generations, make_generation(shards=3)
    await generations.begin(generation)
    await generations.put(generation, [(KEY, of_generation(generation))])
    for shard in (2, 0, 0, 2):
        assert not await generations.finish_shard(generation, shard)
        assert await generations.current() is None
        assert await stores.timelines.latest(KEY) is None
    assert await generations.finish_shard(generation, 1)
    assert await generations.current() == generation
    await until(lambda: stores.watch.current == generation)
    assert name_of(await stores.timelines.latest(KEY)) == generation.generation_id
    assert stores.sample("animora_generation_age_seconds", {}) != 0


async def test_finishing_again_after_the_swap_changes_nothing(generations: RedisGenerations):
    generation = make_generation(shards=2)
    await generations.begin(generation)
    assert not await generations.finish_shard(generation, 0)
    assert await generations.finish_shard(generation, 1)
    following = make_generation(NOW + 1, name=b"another")
    await generations.begin(following)
    assert await generations.finish_shard(generation, 0)
    assert await generations.current() == generation
    assert await generations.begin(make_generation(NOW + 2, name=b"third")) == following


async def test_shards_that_finish_concurrently_swap_once_and_each_sees_the_swap(
    generations: RedisGenerations, client: Redis
):
    generation = make_generation(shards=16)
    await generations.begin(generation)
    swapped = await asyncio.gather(*(generations.finish_shard(generation, shard) for shard in range(16)))
    assert sum(swapped) == 1
    assert await generations.current() == generation
    assert await client.keys() == [CURRENT]


async def test_a_shard_of_a_generation_that_was_abandoned_or_replaced_cannot_finish(
    generations: RedisGenerations,
):
    old, new = make_generation(), make_generation(NOW + 1, name=b"another")
    await generations.begin(old)
    await generations.abandon(old)
    with pytest.raises(GenerationGone):
        await generations.finish_shard(old, 0)
    await generations.begin(new)
    with pytest.raises(GenerationGone):
        await generations.finish_shard(old, 0)
    assert await generations.finish_shard(new, 0)
    assert await generations.current() == new


async def test_a_retired_generation_lives_for_its_tokens_and_no_other_timeline_is_touched(
    stores: Stores, client: Redis
):
    old, new = make_generation(), make_generation(NOW + 1, name=b"another")
    await stores.publish(old, *USERS)
    await stores.publish(new, KEY)
    live = make_timeline()
    await stores.timelines.put_latest(KEY, live)
    before = await lives(client)
    assert await stores.generations.retire(old) == len(USERS)
    assert await stores.generations.retire(old) == len(USERS)  # retiring is idempotent
    after = await lives(client)
    retired = {stored_timeline_key(b"animora:", old.generation_id, user) for user in USERS}
    assert set(after) == set(before)
    assert all(0 < after[key] <= 1000 * (TIMELINE.token_ttl + 120) for key in retired)
    assert all(after[key] > 1000 * TIMELINE.token_ttl for key in after)
    assert all(before[key] - after[key] < 60_000 for key in set(after) - retired)
    assert name_of(await stores.timelines.by_id(USERS[0], old.generation_id)) == old.generation_id


async def test_retiring_never_lets_a_timeline_live_longer(stores: Stores, client: Redis):
    old = make_generation()
    await stores.publish(old, KEY)
    key = stored_timeline_key(b"animora:", old.generation_id, KEY)
    await client.pexpire(key, 5000)
    assert await stores.generations.retire(old) == 1
    assert 0 < await client.pttl(key) <= 5000


async def test_every_key_of_a_build_expires(stores: Stores, client: Redis):
    generation = make_generation(shards=2)
    await stores.generations.begin(generation)
    await stores.generations.put(generation, [(KEY, of_generation(generation))])
    await stores.generations.finish_shard(generation, 0)
    assert len(await lives(client)) == 3
    assert all(life > 0 for life in (await lives(client)).values())
    await stores.generations.finish_shard(generation, 1)
    served = await lives(client)
    assert set(served) == {CURRENT, stored_timeline_key(b"animora:", generation.generation_id, KEY)}
    least = 1000 * (TIMELINE.precomputed_ttl + TIMELINE.stale_ttl + TIMELINE.token_ttl)
    assert all(least - 60_000 < life <= 1.1 * least + 1 for life in served.values())


@pytest.mark.parametrize("sign", ["are_stored", "put", "finish_shard", "intersect_posts"])
async def test_a_build_expires_after_its_last_write(generations: RedisGenerations, client: Redis, sign: str):
    generation = make_generation(shards=3)
    await generations.begin(generation)
    await generations.finish_shard(generation, 0)
    await generations.intersect_posts(generation, np.arange(3))
    done = finished_shards_key(b"animora:", generation.generation_id)
    posts = generation_posts_key(b"animora:", generation.generation_id)
    for key in (BUILDING, done, posts):
        await client.pexpire(key, 60_000)
    match sign:
        case "are_stored":
            await generations.are_stored(generation, [KEY])
        case "put":
            await generations.put(generation, [])
        case "intersect_posts":
            await generations.intersect_posts(generation, np.arange(2))
        case _:
            await generations.finish_shard(generation, 1)
    left = await lives(client)
    whole = 1000 * PRECOMPUTE.resume_within
    assert all(whole - 60_000 < left[key] <= whole for key in (BUILDING, done, posts))


async def test_calls_for_another_generation_do_not_extend_a_build(
    generations: RedisGenerations, client: Redis
):
    old, new = make_generation(), make_generation(NOW + 1, name=b"another")
    await generations.begin(new)
    await client.pexpire(BUILDING, 60_000)
    await generations.put(old, [(KEY, of_generation(old))])
    assert await generations.begin(old) == new  # nor by another run that begins it
    assert await client.pttl(BUILDING) <= 60_000


async def test_an_expired_build_cannot_be_finished_and_another_begins(
    generations: RedisGenerations, client: Redis
):
    old, new = make_generation(), make_generation(NOW + 1, name=b"another")
    await generations.begin(old)
    assert await generations.building() == old
    await client.delete(BUILDING)
    assert await generations.building() is None
    await generations.put(old, [(KEY, of_generation(old))])
    with pytest.raises(GenerationGone, match="resume_within"):
        await generations.finish_shard(old, 0)
    assert await generations.begin(new) == new


async def test_a_poisoned_record_is_none_and_is_deleted(stores: Stores, client: Redis):
    generation = make_generation()
    await client.set(BUILDING, b"poison")
    assert await stores.generations.begin(generation) == generation
    await client.set(CURRENT, b"poison")
    await until(lambda: stores.lookup_count("unreadable", "generation") > 0)
    assert stores.watch.current is None
    assert await stores.generations.current() is None
    assert not await client.exists(CURRENT)


async def test_the_age_of_the_current_generation_is_a_metric(stores: Stores, client: Redis):
    assert math.isnan(stores.sample("animora_generation_age_seconds", {}))
    await stores.publish(make_generation(made_at=1.0), KEY)
    assert stores.sample("animora_generation_age_seconds", {}) > 10**9
    await client.delete(CURRENT)
    await until(lambda: stores.watch.current is None)
    assert math.isnan(stores.sample("animora_generation_age_seconds", {}))


async def test_a_redis_failure_is_a_store_error_and_the_call_can_be_repeated(
    embedded_redis: Start,
):
    server = await embedded_redis()
    generation = make_generation()
    timelines = [(KEY, of_generation(generation))]
    async with (
        RedisGenerations(CacheSettings(url=SecretStr(server.url)), TIMELINE, PRECOMPUTE) as generations,
        redis.asyncio.from_url(server.url) as client,
    ):
        await generations.begin(generation)
        await make_full(client)
        with pytest.raises(StoreError, match="OutOfMemory"):
            await generations.put(generation, timelines)
        with pytest.raises(StoreError):
            await generations.finish_shard(generation, 0)
        await client.config_set("maxmemory", "0")
        await generations.put(generation, timelines)
        assert await generations.finish_shard(generation, 0)
        await server.kill()
        with pytest.raises(StoreError, match="Redis: "):
            await generations.current()
        with pytest.raises(StoreError):
            await generations.are_stored(generation, [KEY])
        with pytest.raises(StoreError):
            await generations.retire(generation)
        await server.start()
        assert await generations.current() is None
