"""The score cache over Redis: shared look-ups, queued writes, and a breaker for when Redis fails."""

import asyncio
import time
from random import Random
from types import TracebackType
from typing import Self, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from animora_server.cache import layout
from animora_server.cache.breaker import Breaker
from animora_server.cache.connection import CONNECT_TIMEOUT, open_redis
from animora_server.cache.lookups import Absent, LookUps
from animora_server.cache.writes import Write, WriteQueue
from animora_server.metrics import CacheMetrics
from animora_server.settings import CacheSettings
from animora_server.types import FloatArray

FAILURES_TO_OPEN = 3
WRITE_TIMEOUT = 1.0  # seconds; nobody waits for a write
TTL_JITTER = 0.1  # of the TTL, so that what was stored together does not expire together

# What a Redis that is slow, frozen, full or gone looks like; TimeoutError is an OSError.
REDIS_FAILED = (RedisError, OSError)

log = structlog.get_logger(__name__)


class RedisScoreCache:
    """Scores by key in Redis.

    Use it as an async context manager. A Redis that is down at the start is tried again like one that
    fails later: outside of requests, with growing pauses, while look-ups are skipped and writes dropped.
    """

    def __init__(self, settings: CacheSettings, metrics: CacheMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._prefix = f"{settings.prefix}:".encode()
        self._random = Random()
        self._breaker = Breaker(FAILURES_TO_OPEN, self._random)
        self._look_ups = LookUps(self._fetch, settings.timeout)
        self._writes = WriteQueue(self._store)
        self._redis: Redis
        self._recovery: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connects, if Redis answers within a second.

        Raises:
            ConfigurationError: The URL cannot be used.
        """
        self._redis = open_redis(self._settings)
        self._metrics.breaker_open.set(1)
        try:
            await self._try()
        except REDIS_FAILED as error:
            self._leave_alone(error)
        else:
            self._use_again()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drops what is queued and disconnects, without waiting for a Redis that does not answer."""
        self._breaker.open()
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.wait([self._recovery])
        await self._look_ups.aclose()
        await self._writes.aclose()
        try:
            await self._redis.aclose()  # gives up after CONNECT_TIMEOUT
        except REDIS_FAILED:
            log.info("cache_close_failed")

    async def get(self, key: bytes, count: int) -> FloatArray | None:
        """The scores float32 (count) under a key, or None, after the timeout at the latest."""
        key = self._prefix + key
        if self._breaker.is_open:
            found: bytes | Absent = Absent.SKIPPED
        else:
            found = await self._look_ups.find(key, layout.size(key, count))
        if isinstance(found, Absent):
            self._metrics.lookups[found.value].inc()
            return None
        try:
            scores = layout.decode(found, key, count)
        except layout.UnreadableValue:
            self._metrics.lookups["unreadable"].inc()
            self._writes.offer(Write(key, None))
            return None
        self._metrics.lookups["hit"].inc()
        return scores

    def put(self, key: bytes, scores: FloatArray) -> None:
        """Stores scores float32 (m) some time soon, unless Redis is left alone or too much is queued."""
        key = self._prefix + key
        if self._breaker.is_open or not self._writes.offer(Write(key, layout.encode(key, scores))):
            self._metrics.writes["dropped"].inc()

    async def _fetch(self, keys: list[bytes]) -> list[bytes | None] | None:
        """One round trip; None if Redis did not answer."""
        if self._breaker.is_open:
            return None
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._settings.timeout):
                values = cast(list[bytes | None], await self._redis.mget(keys))
        except REDIS_FAILED as error:
            self._failed(error)
            return None
        self._metrics.round_trip.observe(time.perf_counter() - started)
        self._breaker.succeeded()
        return values

    async def _store(self, writes: list[Write]) -> None:
        """Sends a batch of writes; what fails is counted and forgotten."""
        pipeline = self._redis.pipeline(transaction=False)
        for write in writes:
            if write.value is None:
                pipeline.delete(write.key)
            else:
                pipeline.set(write.key, write.value, px=self._time_to_live())
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                replies = await pipeline.execute(raise_on_error=False)
        except REDIS_FAILED as error:
            replies = [error] * len(writes)
            self._failed(error)
        # A Redis that is full or read-only refuses writes one by one and still answers look-ups.
        for write, reply in zip(writes, replies, strict=True):
            if write.value is not None:
                self._metrics.writes["error" if isinstance(reply, Exception) else "stored"].inc()

    def _time_to_live(self) -> int:
        """Milliseconds that a value lives."""
        jitter = self._random.uniform(1 - TTL_JITTER, 1 + TTL_JITTER)
        return max(1, round(1000 * self._settings.ttl * jitter))

    def _failed(self, error: Exception) -> None:
        if self._breaker.failed():
            self._leave_alone(error)

    def _leave_alone(self, error: Exception) -> None:
        log.warning("cache_unavailable", error=f"{type(error).__name__}: {error}")
        self._metrics.breaker_open.set(1)
        self._recovery = asyncio.get_running_loop().create_task(self._recover())

    def _use_again(self) -> None:
        self._metrics.breaker_open.set(0)
        self._breaker.close()

    async def _recover(self) -> None:
        """Tries Redis until it answers."""
        for delay in self._breaker.delays():
            await asyncio.sleep(delay)
            try:
                await self._try()
            except REDIS_FAILED:
                continue
            self._use_again()
            log.info("cache_available")
            return

    async def _try(self) -> None:
        """Does what a look-up does; a PING is answered even where keys may not be read."""
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await self._redis.mget([self._prefix + b"probe"])
