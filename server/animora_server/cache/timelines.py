"""Ranked timelines in Redis; see `timeline.store.TimelineStore`."""

import asyncio
import time
from collections.abc import Callable
from math import inf
from random import Random

from animora_server.cache.generation_watch import GenerationWatch
from animora_server.cache.queues import NoAnswer, UnreadableValue, Write
from animora_server.cache.redis_cache import RedisCache
from animora_server.cache.timeline_codec import (
    LatestPointer,
    decode_pointer,
    decode_timeline,
    encode_pointer,
    encode_timeline,
    latest_key,
    stored_timeline_key,
)
from animora_server.observability.metrics import CacheMetrics
from animora_server.settings import TimelineSettings
from animora_server.types import RankedTimeline

RETRY_INTERVAL = 0.01  # seconds
MAX_UNAVAILABLE = 0.25  # seconds with an open breaker after which Redis is not expected back within the call
TTL_JITTER = 0.1  # of the TTL, upward only: a timeline must not expire before its page tokens


class TimelineTtl:
    """The TTL of ranked timelines in Redis: while fresh, while stale, and then for the last page token."""

    def __init__(self, settings: TimelineSettings) -> None:
        self._after_fresh = settings.stale_ttl + settings.token_ttl
        self._random = Random()

    def milliseconds(self, timeline: RankedTimeline) -> int:
        """The TTL of a timeline, jittered, in milliseconds."""
        seconds = max(0.0, timeline.fresh_until - timeline.made_at) + self._after_fresh
        return round(1000 * seconds * self._random.uniform(1, 1 + TTL_JITTER)) + 1


class RedisTimelineStore:
    """Ranked timelines by timeline key: live ones with a pointer to the latest, and precomputed ones.

    Args:
        redis: The cache.
        generations: Source of the current generation.
        settings: Times to live and the maximum size.
        metrics: Counts look-ups.
        clock: Unix seconds.
    """

    def __init__(
        self,
        redis: RedisCache,
        generations: GenerationWatch,
        settings: TimelineSettings,
        metrics: CacheMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._generations = generations
        self._size = settings.max_bytes
        self._ttl = TimelineTtl(settings)
        self._lookups = metrics.lookups["timelines"]

    async def latest(self, key: bytes, answer_by: float = inf) -> RankedTimeline | None:
        """See TimelineStore. One round trip for a precomputed timeline, two for a live one."""
        generation = self._generations.current
        pointer_key = latest_key(self._redis.prefix, key)
        keys = [pointer_key]
        if generation is not None:
            keys.append(stored_timeline_key(self._redis.prefix, generation.generation_id, key))
        until = min(self._redis.lookup_deadline(), answer_by)
        found = await self._redis.find(keys, self._size, until)
        if isinstance(found, NoAnswer):
            self._lookups[found.value].inc()
            return None
        precomputed = None
        if generation is not None and found[1] is not None:
            precomputed = self._decode_timeline(found[1], keys[1], generation.generation_id)
            if precomputed is not None and precomputed.is_from_the_future(self._clock()):
                precomputed = None  # it would count as newer than every new timeline
        pointer = None if found[0] is None else self._decode_pointer(found[0], pointer_key)
        if pointer is not None and (precomputed is None or pointer.made_at > precomputed.made_at):
            live = await self._find(key, pointer.timeline_id, until)
            return live if isinstance(live, RankedTimeline) else precomputed
        self._lookups["miss" if precomputed is None else "hit"].inc()
        return precomputed

    async def by_id(
        self, key: bytes, timeline_id: bytes, answer_by: float = inf, written_by: float = -inf
    ) -> RankedTimeline | None:
        """See TimelineStore. No retries if Redis is full, or if the breaker has been open for some time."""
        loop = asyncio.get_running_loop()
        while True:
            found = await self._find(key, timeline_id, min(self._redis.lookup_deadline(), answer_by))
            if isinstance(found, RankedTimeline):
                return found
            if found is None and self._redis.is_full:
                return None  # the process that built it could not write it
            retry_until = written_by if found is None else answer_by
            if loop.time() + RETRY_INTERVAL > retry_until or self._redis.unavailable_for > MAX_UNAVAILABLE:
                return None
            await asyncio.sleep(RETRY_INTERVAL)

    async def _find(self, key: bytes, timeline_id: bytes, until: float) -> RankedTimeline | NoAnswer | None:
        stored_key = stored_timeline_key(self._redis.prefix, timeline_id, key)
        found = await self._redis.find((stored_key,), self._size, until)
        if isinstance(found, NoAnswer):
            self._lookups[found.value].inc()
            return found
        (value,) = found
        timeline = None if value is None else self._decode_timeline(value, stored_key, timeline_id)
        self._lookups["miss" if timeline is None else "hit"].inc()
        return timeline

    async def put(self, key: bytes, timeline: RankedTimeline) -> bool:
        """See TimelineStore."""
        return await self._redis.store(self._timeline_write(key, timeline))

    async def put_latest(self, key: bytes, timeline: RankedTimeline) -> bool:
        """See TimelineStore. Writes the timeline before the pointer: a pointer without it would be a miss."""
        write = self._timeline_write(key, timeline)
        pointer_key = latest_key(self._redis.prefix, key)
        pointer = encode_pointer(pointer_key, LatestPointer(timeline.timeline_id, timeline.made_at))
        return await self._redis.store(write, Write(pointer_key, pointer, write.ttl_ms))

    def _timeline_write(self, key: bytes, timeline: RankedTimeline) -> Write:
        stored_key = stored_timeline_key(self._redis.prefix, timeline.timeline_id, key)
        return Write(stored_key, encode_timeline(stored_key, timeline), self._ttl.milliseconds(timeline))

    def _decode_timeline(self, value: bytes, key: bytes, timeline_id: bytes) -> RankedTimeline | None:
        try:
            return decode_timeline(value, key, timeline_id)
        except UnreadableValue:
            self._delete_unreadable(key)
            return None

    def _decode_pointer(self, value: bytes, key: bytes) -> LatestPointer | None:
        try:
            return decode_pointer(value, key)
        except UnreadableValue:
            self._delete_unreadable(key)
            return None

    def _delete_unreadable(self, key: bytes) -> None:
        self._lookups["unreadable"].inc()
        self._redis.write(Write(key, None))
