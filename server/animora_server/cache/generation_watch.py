"""Polls Redis for the current generation, so that no request has to look it up."""

from types import TracebackType
from typing import Self

import structlog

from animora_server.background import BackgroundLoop
from animora_server.cache.generation_codec import (
    current_generation_key,
    decode_generation,
    generation_posts_key,
)
from animora_server.cache.queues import MAX_LOOKUP_BYTES, NoAnswer, UnreadableValue, Write
from animora_server.cache.redis_cache import RedisCache
from animora_server.cache.timeline_codec import decode_posts
from animora_server.observability.metrics import CacheMetrics
from animora_server.types import Generation, GenerationPosts

RECORD_BYTES = 1024  # of a record, roughly
# Limit for a Redis that answers look-ups but always exceeds the timeout for the large value of the posts.
ATTEMPTS = 60

log = structlog.get_logger(__name__)


class GenerationWatch:
    """The current generation as of the last poll that Redis answered.

    Use it as an async context manager; it polls once on entering, and then in the background.

    Args:
        redis: The cache.
        interval: Seconds between polls.
        metrics: Counts look-ups; has the age of the generation.

    Attributes:
        current: The current generation; None if there is none.
        posts: The posts that the current generation was ranked from; None while they are unknown.
    """

    def __init__(self, redis: RedisCache, interval: float, metrics: CacheMetrics) -> None:
        self._redis = redis
        self._interval = interval
        self._metrics = metrics
        self._lookups = metrics.lookups["generation"]
        self._key = current_generation_key(redis.prefix)
        self.current: Generation | None = None
        self.posts: GenerationPosts | None = None
        self._attempts = 0  # left to fetch the posts
        self.loop = BackgroundLoop("generation-watch", self._poll)

    async def __aenter__(self) -> Self:
        """Polls once, for at most twice the cache's timeout."""
        await self._poll()
        self.loop.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops polling."""
        await self.loop.stop()

    async def _poll(self) -> float:
        found = await self._redis.find((self._key,), RECORD_BYTES)
        if isinstance(found, NoAnswer):
            self._lookups[found.value].inc()
            return self._interval  # keep it: its timelines are there when Redis is back
        (value,) = found
        generation = None if value is None else self._read(value)
        self._lookups["miss" if generation is None else "hit"].inc()
        if generation != self.current:
            self.current = generation
            self.posts, self._attempts = None, ATTEMPTS
            self._metrics.generation(None if generation is None else generation.made_at)
            log.info(
                "current generation changed",
                id=None if generation is None else generation.generation_id.hex(),
            )
        if generation is not None and self._attempts:
            await self._fetch_posts(generation)
        return self._interval

    async def _fetch_posts(self, generation: Generation) -> None:
        """Fetches a generation's posts. An answer is final, since they are stored before the swap."""
        key = generation_posts_key(self._redis.prefix, generation.generation_id)
        found = await self._redis.find((key,), MAX_LOOKUP_BYTES)  # fills a whole round trip
        if isinstance(found, NoAnswer):
            self._lookups[found.value].inc()
            self._attempts -= found is NoAnswer.ERROR
            if not self._attempts:
                log.warning(
                    "posts of the generation not fetched; giving up", id=generation.generation_id.hex()
                )
            return
        (value,) = found
        self._attempts = 0
        self.posts = None if value is None else self._read_posts(value, key, generation.generation_id)
        self._lookups["miss" if self.posts is None else "hit"].inc()

    def _read(self, value: bytes) -> Generation | None:
        try:
            return decode_generation(value)
        except UnreadableValue:
            self._lookups["unreadable"].inc()
            self._redis.write(Write(self._key, None))
            return None

    def _read_posts(self, value: bytes, key: bytes, generation_id: bytes) -> GenerationPosts | None:
        try:
            return GenerationPosts(generation_id, decode_posts(value, key))
        except UnreadableValue:
            self._lookups["unreadable"].inc()
            self._redis.write(Write(key, None))
            return None
