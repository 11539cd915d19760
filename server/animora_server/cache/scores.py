"""Scores in Redis, read through; see `ranker.protocols.ScoreCache`."""

import asyncio
from functools import partial
from random import Random

from animora_server.cache import score_layout
from animora_server.cache.errors import UnreadableValue
from animora_server.cache.lookups import Found, NoAnswer
from animora_server.cache.shared_redis import SharedRedis
from animora_server.cache.writes import Write
from animora_server.metrics import CacheMetrics
from animora_server.types import FloatArray

TTL_JITTER = 0.1  # of the TTL, so that what was stored together does not expire together


class RedisScores:
    """Scores by key.

    Args:
        redis: Where they are.
        ttl: Seconds that they live, give or take a tenth.
        metrics: Counts look-ups.
    """

    def __init__(self, redis: SharedRedis, ttl: float, metrics: CacheMetrics) -> None:
        self._redis = redis
        self._ttl = ttl
        self._look_ups = metrics.lookups["scores"]
        self._random = Random()

    def get(self, key: bytes, count: int, deadline: float) -> "asyncio.Future[FloatArray | None]":
        """The scores float32 (count) under a key, or None: at the timeout or the deadline at the latest."""
        scores: asyncio.Future[FloatArray | None] = asyncio.get_running_loop().create_future()
        key = self._redis.prefix + key
        until = min(self._redis.until(), deadline)
        found = self._redis.find((key,), score_layout.size(key, count), until)
        found.add_done_callback(partial(self._answer, scores, key, count))
        return scores

    def _answer(
        self,
        scores: "asyncio.Future[FloatArray | None]",
        key: bytes,
        count: int,
        found: "asyncio.Future[Found]",
    ) -> None:
        if not scores.done():
            scores.set_result(self._read(key, count, found.result()))

    def _read(self, key: bytes, count: int, found: Found) -> FloatArray | None:
        if isinstance(found, NoAnswer):
            self._look_ups[found.value].inc()
            return None
        (value,) = found
        if value is None:
            self._look_ups["miss"].inc()
            return None
        try:
            scores = score_layout.decode(value, key, count)
        except UnreadableValue:
            self._look_ups["unreadable"].inc()
            self._redis.write(Write(key, None))
            return None
        self._look_ups["hit"].inc()
        return scores

    def put(self, key: bytes, scores: FloatArray) -> None:
        """Stores scores float32 (m) some time soon, unless Redis is left alone or too much is queued."""
        key = self._redis.prefix + key
        jitter = self._random.uniform(1 - TTL_JITTER, 1 + TTL_JITTER)
        life = max(1, round(1000 * self._ttl * jitter))
        self._redis.write(Write(key, score_layout.encode(key, scores), life))
