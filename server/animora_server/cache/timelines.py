"""Timelines in Redis; see `timeline.protocols.TimelineStore`."""

import asyncio
import time
from collections.abc import Callable
from math import inf
from random import Random
from typing import Protocol

from animora_server.cache.errors import UnreadableValue
from animora_server.cache.keys import latest_key, list_key
from animora_server.cache.lookups import NoAnswer
from animora_server.cache.redis_cache import RedisCache
from animora_server.cache.timeline_codec import (
    LatestPointer,
    decode_list,
    decode_pointer,
    encode_list,
    encode_pointer,
)
from animora_server.cache.writes import Write
from animora_server.observability.metrics import CacheMetrics
from animora_server.settings import TimelineSettings
from animora_server.types import Generation, RankedTimeline

ASK_AGAIN_AFTER = 0.01  # seconds
AWAY = 0.25  # seconds after which a Redis that is left alone is not expected back within a call
TTL_JITTER = 0.1  # of the TTL and only upward: a list must not go before its page tokens do


class CurrentGeneration(Protocol):
    """Knows which precomputed lists to serve."""

    @property
    def current(self) -> Generation | None:
        """The generation, or None."""
        ...


class ListLife:
    """How long lists stay in Redis: while fresh, then stale, then for a token that was given out last."""

    def __init__(self, settings: TimelineSettings) -> None:
        self._after_fresh = settings.stale_ttl + settings.token_ttl
        self._random = Random()

    def milliseconds(self, snapshot: RankedTimeline) -> int:
        """The time to live of a list."""
        seconds = max(0.0, snapshot.fresh_until - snapshot.made_at) + self._after_fresh
        return round(1000 * seconds * self._random.uniform(1, 1 + TTL_JITTER)) + 1


class RedisTimelineStore:
    """Lists by timeline key: live ones with a pointer to the latest, and the current generation's."""

    def __init__(
        self,
        redis: RedisCache,
        generations: CurrentGeneration,
        settings: TimelineSettings,
        metrics: CacheMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._generations = generations
        self._size = settings.max_bytes
        self._life = ListLife(settings)
        self._look_ups = metrics.lookups["timelines"]

    async def latest(self, key: bytes) -> RankedTimeline | None:
        """The newest list of a key: one round trip for a precomputed one, two for one made since."""
        generation = self._generations.current
        pointer_key = latest_key(self._redis.prefix, key)
        keys = [pointer_key]
        if generation is not None:
            keys.append(list_key(self._redis.prefix, generation.generation_id, key))
        until = self._redis.until()
        found = await self._redis.find(keys, self._size, until)
        if isinstance(found, NoAnswer):
            self._look_ups[found.value].inc()
            return None
        precomputed = None
        if generation is not None and found[1] is not None:
            precomputed = self._read_list(found[1], keys[1], generation.generation_id)
            if precomputed is not None and precomputed.is_from_the_future(self._clock()):
                precomputed = None  # or it would be newer than all that are made now
        pointer = None if found[0] is None else self._read_pointer(found[0], pointer_key)
        if pointer is not None and (precomputed is None or pointer.made_at > precomputed.made_at):
            live = await self._find(key, pointer.snapshot_id, until)
            return live if isinstance(live, RankedTimeline) else precomputed
        self._look_ups["miss" if precomputed is None else "hit"].inc()
        return precomputed

    async def pinned(
        self, key: bytes, snapshot_id: bytes, answer_by: float = inf, written_by: float = -inf
    ) -> RankedTimeline | None:
        """See TimelineStore. A Redis that is full, or was left alone for some time, is not asked again."""
        loop = asyncio.get_running_loop()
        while True:
            found = await self._find(key, snapshot_id, min(self._redis.until(), answer_by))
            if isinstance(found, RankedTimeline):
                return found
            if found is None and self._redis.is_full:
                return None  # whoever made the list could not write it
            ask_again_until = written_by if found is None else answer_by
            if loop.time() + ASK_AGAIN_AFTER > ask_again_until or self._redis.away_for > AWAY:
                return None
            await asyncio.sleep(ASK_AGAIN_AFTER)

    async def _find(self, key: bytes, snapshot_id: bytes, until: float) -> RankedTimeline | NoAnswer | None:
        stored_key = list_key(self._redis.prefix, snapshot_id, key)
        found = await self._redis.find((stored_key,), self._size, until)
        if isinstance(found, NoAnswer):
            self._look_ups[found.value].inc()
            return found
        (value,) = found
        snapshot = None if value is None else self._read_list(value, stored_key, snapshot_id)
        self._look_ups["miss" if snapshot is None else "hit"].inc()
        return snapshot

    async def keep(self, key: bytes, snapshot: RankedTimeline) -> bool:
        """Stores a list; whether it is known to be stored, after the timeout at the latest."""
        return await self._redis.store(self._list_write(key, snapshot))

    async def make_latest(self, key: bytes, snapshot: RankedTimeline) -> bool:
        """Stores a list, then points to it: a pointer without its list would be a miss."""
        write = self._list_write(key, snapshot)
        pointer_key = latest_key(self._redis.prefix, key)
        pointer = encode_pointer(pointer_key, LatestPointer(snapshot.snapshot_id, snapshot.made_at))
        return await self._redis.store(write, Write(pointer_key, pointer, write.life))

    def _list_write(self, key: bytes, snapshot: RankedTimeline) -> Write:
        stored_key = list_key(self._redis.prefix, snapshot.snapshot_id, key)
        return Write(stored_key, encode_list(stored_key, snapshot), self._life.milliseconds(snapshot))

    def _read_list(self, value: bytes, key: bytes, snapshot_id: bytes) -> RankedTimeline | None:
        try:
            return decode_list(value, key, snapshot_id)
        except UnreadableValue:
            self._forget(key)
            return None

    def _read_pointer(self, value: bytes, key: bytes) -> LatestPointer | None:
        try:
            return decode_pointer(value, key)
        except UnreadableValue:
            self._forget(key)
            return None

    def _forget(self, key: bytes) -> None:
        self._look_ups["unreadable"].inc()
        self._redis.write(Write(key, None))
