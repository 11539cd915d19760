"""Scores in Redis, read through; see `ranker.protocols.ScoreCache`."""

import asyncio
from collections.abc import Sequence
from functools import partial
from random import Random

from animora_server.cache import score_codec
from animora_server.cache.keys import UnreadableValue
from animora_server.cache.lookups import Found, NoAnswer
from animora_server.cache.redis_cache import RedisCache
from animora_server.cache.writes import Write
from animora_server.observability.metrics import CacheMetrics
from animora_server.types import FloatArray

TTL_JITTER = 0.1  # of the TTL, so that what was stored together does not expire together


class RedisScores:
    """Scores by key.

    Args:
        redis: Where they are.
        ttl: Seconds that they live, give or take a tenth.
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
        """The scores under each key, in one look-up: at the timeout or the deadline at the latest."""
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
        """Stores scores float32 (m) some time soon, unless Redis is left alone or too much is queued."""
        key = self._redis.prefix + key
        jitter = self._random.uniform(1 - TTL_JITTER, 1 + TTL_JITTER)
        ttl_ms = max(1, round(1000 * self._ttl * jitter))
        self._redis.write(Write(key, score_codec.encode(key, scores), ttl_ms))
