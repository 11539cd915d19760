"""Cached scores in Redis; see `ScoreCache`."""

import asyncio
from collections.abc import Sequence
from functools import partial
from random import Random

from animora_server.cache import score_codec
from animora_server.cache.queues import Found, NoAnswer, UnreadableValue, Write
from animora_server.cache.redis_cache import RedisCache
from animora_server.observability.metrics import CacheMetrics
from animora_server.types import FloatArray

TTL_JITTER = 0.1  # of the TTL, so that values stored at one time do not expire at one time


class RedisScores:
    """Scores by key.

    Args:
        redis: The cache.
        ttl: Time to live in seconds; jittered by TTL_JITTER.
        metrics: Counts look-ups.
    """

    def __init__(self, redis: RedisCache, ttl: float, metrics: CacheMetrics) -> None:
        self._redis = redis
        self._ttl = ttl
        self._lookups = metrics.lookups["scores"]
        self._random = Random()

    def find(
        self, keys: Sequence[bytes], counts: Sequence[int], deadline: float
    ) -> "asyncio.Future[list[FloatArray | None]]":
        """Looks up scores in one look-up, by the timeout or the deadline (event loop's clock).

        Args:
            keys: The keys, without the prefix.
            counts: The number of scores under each key.
            deadline: On the event loop's clock.

        Returns:
            A future of float32 (count) for each key, None for a miss.
        """
        scores: asyncio.Future[list[FloatArray | None]] = asyncio.get_running_loop().create_future()
        keys = [self._redis.prefix + key for key in keys]
        size = sum([score_codec.size(key, count) for key, count in zip(keys, counts, strict=True)])
        found = self._redis.find(keys, size, min(self._redis.lookup_deadline(), deadline))
        found.add_done_callback(partial(self._answer, scores, keys, counts))
        return scores

    def _answer(
        self,
        scores: "asyncio.Future[list[FloatArray | None]]",
        keys: Sequence[bytes],
        counts: Sequence[int],
        found: "asyncio.Future[Found]",
    ) -> None:
        if scores.done():
            return
        values = found.result()
        if isinstance(values, NoAnswer):
            self._lookups[values.value].inc(len(keys))
            scores.set_result([None] * len(keys))
        else:
            scores.set_result(list(map(self._read, keys, counts, values)))

    def _read(self, key: bytes, count: int, value: bytes | None) -> FloatArray | None:
        if value is None:
            self._lookups["miss"].inc()
            return None
        try:
            scores = score_codec.decode(value, key, count)
        except UnreadableValue:
            self._lookups["unreadable"].inc()
            self._redis.write(Write(key, None))
            return None
        self._lookups["hit"].inc()
        return scores

    def put(self, key: bytes, scores: FloatArray) -> None:
        """Queues a write of scores float32 (m); drops it if the breaker is open or the queue is full."""
        key = self._redis.prefix + key
        jitter = self._random.uniform(1 - TTL_JITTER, 1 + TTL_JITTER)
        ttl_ms = max(1, round(1000 * self._ttl * jitter))
        self._redis.write(Write(key, score_codec.encode(key, scores), ttl_ms))
