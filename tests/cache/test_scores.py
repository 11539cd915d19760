import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import redis.asyncio
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from redis.asyncio import Redis

from animora_demo.embedded import EmbeddedRedis
from animora_server.cache import RedisCache, RedisScores
from animora_server.errors import ConfigurationError
from animora_server.observability.metrics import CacheMetrics
from animora_server.settings import CacheSettings
from tests.support.redis_stores import make_full, make_read_only, until_deleted
from tests.support.until import HANG_TIMEOUT, until

KEY = b"rank:1:key"
STORED = b"animora:" + KEY
SCORES = np.array([0.5, -1.25, 3.0], np.float32)
LATER = float("inf")  # a deadline after any timeout

Start = Callable[[], Awaitable[EmbeddedRedis]]
Freeze = Callable[[int], AbstractContextManager[None]]


class Cache:
    """A score cache with its counts, and a plain client beside it."""

    def __init__(self, url: str, *, timeout: float = 0.02, prefix: str = "animora") -> None:
        self.registry = CollectorRegistry()
        settings = CacheSettings(url=SecretStr(url), timeout=timeout, prefix=prefix)
        metrics = CacheMetrics(self.registry)
        self.redis = RedisCache(settings, metrics)
        self.scores = RedisScores(self.redis, 300.0, metrics)
        self.client = redis.asyncio.from_url(url)

    async def __aenter__(self) -> "Cache":
        await self.redis.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.redis.__aexit__(None, None, None)
        await self.client.aclose()

    async def get(self, key: bytes = KEY) -> list[float] | None:
        (found,) = await self.scores.find([key], [len(SCORES)], LATER)
        return None if found is None else found.tolist()

    def lookup_count(self, outcome: str) -> float:
        return self._sample("animora_cache_lookups_total", {"kind": "scores", "outcome": outcome})

    def written(self, outcome: str) -> float:
        return self._sample("animora_cache_writes_total", {"outcome": outcome})

    @property
    def is_skipped(self) -> bool:
        return self._sample("animora_cache_breaker_open", {}) == 1

    async def store(self, key: bytes = KEY) -> None:
        """Returns once the scores are in Redis."""
        before = self.written("stored")
        self.scores.put(key, SCORES)
        await until(lambda: self.written("stored") > before)

    async def until_found(self) -> None:
        async def found() -> bool:
            return bool(await self.get() == SCORES.tolist())

        await until(found)

    async def fail_until_skipped(self) -> None:
        while not self.is_skipped:
            assert await self.get() is None

    def _sample(self, name: str, labels: dict[str, str]) -> float:
        value = self.registry.get_sample_value(name, labels)
        assert value is not None
        return value


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator[Cache]:
    # The timeout is long, so that a busy machine does not look like a failure.
    async with Cache(redis_url, timeout=10) as made:
        yield made


async def test_stored_scores_are_found(cache: Cache):
    assert await cache.get() is None
    await cache.store()
    assert await cache.get() == SCORES.tolist()
    assert (cache.lookup_count("miss"), cache.lookup_count("hit")) == (1, 1)


async def test_concurrent_lookups_each_return_their_own_scores(cache: Cache):
    keys = [b"key %d" % number for number in range(300)]
    for number, key in enumerate(keys):
        cache.scores.put(key, np.array([number], np.float32))
    await until(lambda: cache.written("stored") == len(keys))
    found = await asyncio.gather(*(cache.scores.find([key], [1], LATER) for key in keys))
    assert [scores.item() for (scores,) in found if scores is not None] == list(range(300))


async def test_one_lookup_of_many_keys_returns_none_for_those_that_are_missing(cache: Cache):
    for number in (0, 2):
        cache.scores.put(b"key %d" % number, np.arange(number + 1, dtype=np.float32))
    await until(lambda: cache.written("stored") == 2)
    found = await cache.scores.find([b"key 0", b"key 1", b"key 2"], [1, 2, 3], LATER)
    assert [None if scores is None else scores.tolist() for scores in found] == [[0], None, [0, 1, 2]]
    assert (cache.lookup_count("hit"), cache.lookup_count("miss")) == (2, 1)


async def test_caches_with_different_key_prefixes_share_no_values(cache: Cache, redis_url: str):
    await cache.store()
    async with Cache(redis_url, timeout=10, prefix="other") as other:
        assert await other.get() is None


async def test_values_expire_at_jittered_times(cache: Cache):
    keys = [b"key %d" % number for number in range(20)]
    for key in keys:
        await cache.store(key)
    lives = [await cache.client.pttl(b"animora:" + key) for key in keys]
    assert all(0 < life <= 330_000 for life in lives)
    assert max(lives) - min(lives) > 1000


@pytest.mark.failure(22)
@pytest.mark.parametrize("poison", [b"", b"poison", b"anm\x01" + bytes(50), bytes(2**16)])
async def test_an_unreadable_value_is_a_miss_and_is_deleted(cache: Cache, poison: bytes):
    await cache.client.set(STORED, poison)
    assert await cache.get() is None
    assert cache.lookup_count("unreadable") == 1
    await until_deleted(cache.client, STORED)


@pytest.mark.failure(22)
async def test_a_value_under_another_key_is_a_miss_and_is_deleted(cache: Cache):
    await cache.store(b"rank:1:another")
    await cache.client.rename(b"animora:rank:1:another", STORED)
    assert await cache.get() is None
    await until_deleted(cache.client, STORED)


async def test_a_key_of_another_type_is_a_miss(cache: Cache):
    await cache.client.lpush(STORED, b"1")
    assert await cache.get() is None


@pytest.mark.failure(21)
async def test_the_values_of_cancelled_lookups_are_never_returned_to_other_callers(cache: Cache):
    keys = [b"key %d" % number for number in range(50)]
    for number, key in enumerate(keys):
        cache.scores.put(key, np.array([number], np.float32))
    await until(lambda: cache.written("stored") == len(keys))
    for turns in range(20):
        gets = [cache.scores.find([key], [1], LATER) for key in keys]
        for _ in range(turns % 7):
            await asyncio.sleep(0)  # so that the cancellation meets the round trip at various steps
        for get in gets[turns % 2 :: 2]:
            get.cancel()
        for number, get in enumerate(gets):
            await asyncio.wait([get])
            if not get.cancelled():
                (found,) = get.result()
                assert found is not None
                assert found.item() == number


@pytest.mark.failure(20)
async def test_a_flushed_redis_is_a_miss(cache: Cache):
    await cache.store()
    await cache.client.flushall()
    assert await cache.get() is None
    assert cache.lookup_count("miss") == 1


@pytest.mark.failure(20)
async def test_a_killed_redis_is_skipped_until_it_is_back(embedded_redis: Start):
    server = await embedded_redis()
    async with Cache(server.url) as cache:
        await cache.store()
        os.kill(server.pid, signal.SIGKILL)
        await cache.fail_until_skipped()
        errors = cache.lookup_count("error")
        assert await cache.get() is None
        assert (cache.lookup_count("error"), cache.lookup_count("skipped")) == (errors, 1)
        await server.stop()
        await server.start()
        await until(lambda: not cache.is_skipped)
        await cache.store()
        await cache.until_found()


async def test_a_redis_that_is_killed_under_load_fails_no_lookup(embedded_redis: Start):
    server = await embedded_redis()
    done = asyncio.Event()

    async def use(cache: Cache, number: int) -> None:
        while not done.is_set():
            cache.scores.put(b"key %d" % number, SCORES)
            assert await cache.get(b"key %d" % number) in (None, SCORES.tolist())
            await asyncio.sleep(0)

    async with Cache(server.url) as cache, asyncio.TaskGroup() as load:
        for number in range(20):
            load.create_task(use(cache, number))
        for _ in range(3):
            hits = cache.lookup_count("hit")
            await until(lambda: cache.lookup_count("hit") > hits)  # noqa: B023  # awaited before the next turn
            os.kill(server.pid, signal.SIGKILL)
            await until(lambda: cache.is_skipped)
            await server.stop()
            await server.start()
        done.set()


@pytest.mark.failure(20)
async def test_a_frozen_redis_is_skipped_until_it_thaws(embedded_redis: Start, frozen: Freeze):
    server = await embedded_redis()
    async with Cache(server.url) as cache:
        await cache.store()
        with frozen(server.pid):
            await cache.fail_until_skipped()
            cache.scores.put(KEY, SCORES)
            assert cache.written("dropped") == 1
        await until(lambda: not cache.is_skipped)
        await cache.until_found()


@pytest.mark.failure(20)
async def test_closing_does_not_wait_for_a_frozen_redis(embedded_redis: Start, frozen: Freeze):
    server = await embedded_redis()
    async with Cache(server.url) as cache:
        with frozen(server.pid):
            # More than a socket takes, so that some of it is still to be sent.
            for number in range(100):
                cache.scores.put(b"key %d" % number, np.zeros(10_000, np.float32))
            waiting = asyncio.create_task(cache.get())
            await asyncio.sleep(0)
            async with asyncio.timeout(HANG_TIMEOUT):
                await cache.redis.__aexit__(None, None, None)
            assert await waiting is None
            assert await cache.get() is None  # nor do later look-ups


async def test_a_redis_that_is_down_at_the_start_is_used_once_it_is_up(embedded_redis: Start):
    server = await embedded_redis()
    await server.stop()
    async with Cache(server.url) as cache:
        assert await cache.get() is None
        assert cache.lookup_count("skipped") == 1
        await server.start()
        await until(lambda: not cache.is_skipped)
        await cache.store()


async def test_a_redis_that_is_frozen_at_the_start_delays_it_by_a_bounded_time(
    embedded_redis: Start, frozen: Freeze
):
    server = await embedded_redis()
    with frozen(server.pid):
        async with asyncio.timeout(HANG_TIMEOUT), Cache(server.url) as cache:
            assert await cache.get() is None


@pytest.mark.failure(20)
@pytest.mark.parametrize("refuse_writes", [make_full, make_read_only])
async def test_a_redis_that_refuses_writes_still_answers(
    refuse_writes: Callable[[Redis], Awaitable[None]], embedded_redis: Start
):
    server = await embedded_redis()
    async with Cache(server.url, timeout=10) as cache:
        await cache.store()
        await refuse_writes(cache.client)
        cache.scores.put(b"another", SCORES)
        await until(lambda: cache.written("error") == 1)
        assert await cache.get() == SCORES.tolist()
        assert not cache.is_skipped


async def test_a_redis_that_answers_pings_but_forbids_lookups_is_skipped(embedded_redis: Start):
    server = await embedded_redis()
    async with Cache(server.url, timeout=10) as cache:
        await cache.client.acl_setuser("default", enabled=True, commands=["-mget"])
        await cache.fail_until_skipped()
        assert await cache.client.ping()
        await cache.client.acl_setuser("default", enabled=True, commands=["+mget"])
        await until(lambda: not cache.is_skipped)


async def test_a_put_never_waits_and_drops_writes_beyond_the_queue_limit(
    embedded_redis: Start, frozen: Freeze
):
    server = await embedded_redis()
    async with Cache(server.url) as cache:
        with frozen(server.pid):
            for number in range(600):
                cache.scores.put(b"key %d" % number, np.zeros(10_000, np.float32))
            assert cache.written("dropped") > 0


async def test_an_option_that_the_client_does_not_know_is_refused_at_the_start():
    with pytest.raises(ConfigurationError, match=r"cache\.url") as refused:
        async with Cache("redis://:secret@localhost:1/0?no_such_option=1"):
            pass
    assert "secret" not in str(refused.value)


async def test_options_in_the_url_do_not_change_how_values_are_decoded(redis_url: str):
    async with Cache(f"{redis_url}&decode_responses=true&protocol=3", timeout=10) as cache:
        await cache.store()
        assert await cache.get() == SCORES.tolist()
