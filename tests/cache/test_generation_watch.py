"""The posts that a generation was ranked from, in a real Redis: written by each run, read by each server."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from structlog.testing import capture_logs

from animora_server.cache import GenerationWatch
from animora_server.cache.generation_codec import encode_generation, generation_posts_key
from animora_server.cache.generation_watch import ATTEMPTS
from animora_server.cache.queues import Found, NoAnswer
from animora_server.cache.timeline_codec import encode_posts
from animora_server.errors import GenerationGone
from animora_server.observability.metrics import CacheMetrics
from animora_server.precompute.generation_store import RedisGenerations
from tests.support.redis_stores import KEY, NOW, TIMELINE, Stores, make_generation, name_of, until_deleted
from tests.support.until import HANG_TIMEOUT, until


class ScriptedRedis:
    """A RedisCache that returns one scripted answer after the other, then none."""

    prefix = b"animora:"

    def __init__(self, *answers: Found) -> None:
        self._answers = list(answers)
        self.requested: list[bytes] = []
        self.given_all = asyncio.Event()

    async def find(self, keys: Sequence[bytes], size: int) -> Found:
        self.requested += keys
        if not self._answers:
            self.given_all.set()
            return NoAnswer.SKIPPED
        return self._answers.pop(0)


def posts_of(stores: Stores) -> list[int] | None:
    """The posts of the current generation, as the watch knows them."""
    posts = stores.watch.posts
    assert posts is None or posts.generation_id == name_of_current(stores)
    return None if posts is None else posts.post_ids.tolist()


def name_of_current(stores: Stores) -> bytes | None:
    return None if stores.watch.current is None else stores.watch.current.generation_id


async def test_a_generation_has_the_posts_that_every_run_could_rank(stores: Stores, client: Redis):
    generations, generation = stores.generations, make_generation(shards=2)
    await generations.begin(generation)
    await generations.intersect_posts(generation, np.array([1, 2, 3, 5]))
    await generations.finish_shard(generation, 0)
    await generations.intersect_posts(generation, np.array([2, 3, 4, 5, 10**12]))  # a run that is killed
    await generations.intersect_posts(generation, np.array([1, 2, 4, 5]))
    assert posts_of(stores) is None
    await generations.finish_shard(generation, 1)
    await until(lambda: posts_of(stores) == [2, 5])
    least = 1000 * (TIMELINE.precomputed_ttl + TIMELINE.stale_ttl + TIMELINE.token_ttl)
    key = generation_posts_key(b"animora:", generation.generation_id)
    assert least - 60_000 < await client.pttl(key) <= least


async def test_concurrent_runs_are_all_in_the_intersection(stores: Stores):
    generation = make_generation()
    await stores.generations.begin(generation)
    everything = np.arange(40)
    await asyncio.gather(
        *(stores.generations.intersect_posts(generation, np.delete(everything, n)) for n in range(20))
    )
    await stores.publish(generation)
    await until(lambda: posts_of(stores) == list(range(20, 40)))


async def test_the_posts_of_a_generation_expire_with_it(stores: Stores, client: Redis):
    old, abandoned = make_generation(), make_generation(NOW + 1, name=b"another")
    await stores.generations.begin(old)
    await stores.generations.intersect_posts(old, np.arange(3))
    await stores.publish(old)
    await until(lambda: posts_of(stores) == [0, 1, 2])
    await stores.generations.begin(abandoned)
    await stores.generations.intersect_posts(abandoned, np.arange(3))
    assert await client.exists(generation_posts_key(b"animora:", abandoned.generation_id))
    await stores.generations.abandon(abandoned)
    assert not await client.exists(generation_posts_key(b"animora:", abandoned.generation_id))
    await stores.publish(make_generation(NOW + 2, name=b"third"))
    assert posts_of(stores) is None
    await stores.generations.retire(old)
    life = await client.pttl(generation_posts_key(b"animora:", old.generation_id))
    assert 0 < life <= 1000 * (TIMELINE.token_ttl + 120)


async def test_posts_are_stored_only_for_the_generation_that_is_being_built(generations: RedisGenerations):
    with pytest.raises(GenerationGone, match="resume_within"):
        await generations.intersect_posts(make_generation(), np.arange(3))


async def test_unreadable_posts_of_a_generation_are_absent_counted_once_and_deleted(
    stores: Stores, client: Redis
):
    generation = make_generation()
    key = generation_posts_key(b"animora:", generation.generation_id)
    await client.set(key, encode_posts(b"another key", np.arange(3)))
    await stores.publish(generation, KEY)
    await until(lambda: stores.lookup_count("unreadable", "generation") > 0)
    await until_deleted(client, key)
    hits = stores.lookup_count("hit", "generation")
    await until(lambda: stores.lookup_count("hit", "generation") > hits + 1)
    assert stores.lookup_count("unreadable", "generation") == 1
    assert posts_of(stores) is None
    assert name_of(await stores.timelines.latest(KEY)) == generation.generation_id


async def test_damaged_posts_are_not_fetched_again_for_the_same_generation(stores: Stores, client: Redis):
    generation = make_generation(shards=2)
    key = generation_posts_key(b"animora:", generation.generation_id)
    await stores.generations.begin(generation)
    await stores.generations.intersect_posts(generation, np.arange(3))
    await client.set(key, b"poison")
    with capture_logs() as logs:
        await stores.generations.intersect_posts(generation, np.arange(5))
    assert any("unreadable" in line["event"] for line in logs)
    await stores.generations.finish_shard(generation, 0)
    await stores.generations.intersect_posts(
        generation, np.arange(4)
    )  # of another shard, which finds no damage
    await stores.generations.finish_shard(generation, 1)
    await until(lambda: stores.lookup_count("unreadable", "generation") > 0)
    assert name_of_current(stores) == generation.generation_id
    assert posts_of(stores) is None


GENERATION = make_generation()
RECORD: Found = [encode_generation(GENERATION)]
GENERATION_POSTS_KEY = generation_posts_key(b"animora:", GENERATION.generation_id)
GENERATION_POSTS: Found = [encode_posts(GENERATION_POSTS_KEY, np.arange(3))]


async def watched(redis: ScriptedRedis) -> GenerationWatch:
    """A watch that has received every scripted answer."""
    watch = GenerationWatch(redis, 0.001, CacheMetrics(CollectorRegistry()))  # type: ignore[arg-type]  # all that it uses
    async with watch, asyncio.timeout(HANG_TIMEOUT):
        await redis.given_all.wait()
    return watch


async def test_the_posts_of_a_generation_are_fetched_again_until_redis_answers():
    redis = ScriptedRedis(RECORD, NoAnswer.ERROR, RECORD, NoAnswer.SKIPPED, RECORD, GENERATION_POSTS, RECORD)
    posts = (await watched(redis)).posts
    assert posts is not None
    assert (posts.generation_id, posts.post_ids.tolist()) == (GENERATION.generation_id, [0, 1, 2])
    assert redis.requested.count(GENERATION_POSTS_KEY) == 3


async def test_a_generation_without_posts_is_looked_up_once():
    redis = ScriptedRedis(RECORD, [None], RECORD, RECORD)
    watch = await watched(redis)
    assert (watch.current, watch.posts) == (GENERATION, None)
    assert redis.requested.count(GENERATION_POSTS_KEY) == 1


async def test_fetching_posts_ends_after_many_timeouts():
    tries: list[Found] = [RECORD, NoAnswer.ERROR] * ATTEMPTS
    redis = ScriptedRedis(*tries, RECORD, RECORD)
    with capture_logs() as logs:
        watch = await watched(redis)
    assert (watch.current, watch.posts) == (GENERATION, None)
    assert redis.requested.count(GENERATION_POSTS_KEY) == ATTEMPTS
    assert [line["log_level"] for line in logs if "posts" in line["event"]] == ["warning"]
