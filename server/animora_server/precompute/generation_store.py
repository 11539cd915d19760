"""Generations of precomputed timelines in Redis; see `precompute.protocols.GenerationStore`."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Self, cast

import numpy as np
import structlog
from redis.asyncio import Redis, RedisCluster

from animora_server.cache.connection import REDIS_FAILED, close_redis, drop_connections, open_redis
from animora_server.cache.generation_codec import (
    building_generation_key,
    current_generation_key,
    decode_generation,
    encode_generation,
    finished_shards_key,
    generation_posts_key,
)
from animora_server.cache.queues import UnreadableValue, Write
from animora_server.cache.timeline_codec import (
    decode_posts,
    encode_posts,
    encode_timeline,
    stored_timeline_key,
    stored_timeline_pattern,
)
from animora_server.cache.timelines import TimelineTtl
from animora_server.errors import GenerationGone, StoreError
from animora_server.settings import CacheSettings, PrecomputeSettings, TimelineSettings
from animora_server.types import Generation, IntArray, RankedTimeline

log = structlog.get_logger(__name__)

COMMAND_TIMEOUT = 10.0  # seconds; longer than a server's, since no caller waits
BATCH_BYTES = 1 << 20
BATCH_KEYS = 1000
# Marks the posts of a generation as lost. Servers cannot read it, delete it and have no posts.
UNKNOWN_POSTS = b""
# Seconds for which a server that has not seen the swap may still sign tokens.
RETIREMENT_MARGIN = 120.0
GONE = (
    "the generation is not being built any more: another run has abandoned it, or nothing was written for "
    "longer than precompute.resume_within"
)

# Lua scripts. KEYS: the record of the current generation, the record of the one being built, the set of its
# finished shards, its posts. ARGV[1]: the id of the generation, in hexadecimal, as its record contains it.
_IS_CURRENT, _UNFINISHED, _GONE, _HAS_CHANGED = 1, 0, -1, -2
FINISH = f"""
local current = redis.call('GET', KEYS[1])
if current and string.find(current, ARGV[1], 1, true) then return {_IS_CURRENT} end
local building = redis.call('GET', KEYS[2])
if not (building and string.find(building, ARGV[1], 1, true)) then return {_GONE} end
redis.call('SADD', KEYS[3], ARGV[2])
if redis.call('SCARD', KEYS[3]) < tonumber(ARGV[3]) then
    redis.call('PEXPIRE', KEYS[2], ARGV[4])
    redis.call('PEXPIRE', KEYS[3], ARGV[4])
    redis.call('PEXPIRE', KEYS[4], ARGV[4])
    return {_UNFINISHED}
end
redis.call('SET', KEYS[1], building, 'PX', ARGV[5])
redis.call('PEXPIRE', KEYS[4], ARGV[5])
redis.call('DEL', KEYS[2], KEYS[3])
return {_IS_CURRENT}
"""
# Compare and set: ARGV[2] is the posts' value as it was read, ARGV[3] the value that replaces it.
INTERSECT = f"""
local building = redis.call('GET', KEYS[2])
if not (building and string.find(building, ARGV[1], 1, true)) then return {_GONE} end
if (redis.call('GET', KEYS[4]) or '') ~= ARGV[2] then return {_HAS_CHANGED} end
redis.call('SET', KEYS[4], ARGV[3], 'PX', ARGV[4])
return {_UNFINISHED}
"""
EXTEND = """
local building = redis.call('GET', KEYS[2])
if building and string.find(building, ARGV[1], 1, true) then
    redis.call('PEXPIRE', KEYS[2], ARGV[2])
    redis.call('PEXPIRE', KEYS[3], ARGV[2])
    redis.call('PEXPIRE', KEYS[4], ARGV[2])
end
return 0
"""
ABANDON = """
local building = redis.call('GET', KEYS[2])
if building and string.find(building, ARGV[1], 1, true) then redis.call('DEL', KEYS[2], KEYS[3], KEYS[4]) end
return 0
"""


class RedisGenerations:
    """Generations in Redis, by a client that waits for answers, unlike a server's.

    Use it as an async context manager.

    Args:
        cache: The URL and the prefix.
        timeline: Times to live of timelines and tokens.
        precompute: How long a generation can be resumed.
    """

    def __init__(
        self, cache: CacheSettings, timeline: TimelineSettings, precompute: PrecomputeSettings
    ) -> None:
        self._cache = cache
        self._prefix = f"{cache.prefix}:".encode()
        self._timeline_ttl = TimelineTtl(timeline)
        self._retired_ttl = round(1000 * (timeline.token_ttl + RETIREMENT_MARGIN))
        self._building_ttl = round(1000 * precompute.resume_within)  # from the last write for it
        # The minimum TTL of a timeline; after it there is nothing left to serve.
        seconds = timeline.precomputed_ttl + timeline.stale_ttl + timeline.token_ttl
        self._current_ttl = round(1000 * seconds)
        self._client: Redis | RedisCluster

    async def __aenter__(self) -> Self:
        """Opens the client, which connects when it is used.

        Raises:
            ConfigurationError: The URL cannot be used.
        """
        self._client = open_redis(self._cache, COMMAND_TIMEOUT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnects."""
        with suppress(*REDIS_FAILED):
            await close_redis(self._client)

    async def current(self) -> Generation | None:
        """See GenerationStore."""
        return await self._record(current_generation_key(self._prefix))

    async def building(self) -> Generation | None:
        """See GenerationStore."""
        return await self._record(building_generation_key(self._prefix))

    async def begin(self, generation: Generation) -> Generation:
        """See GenerationStore."""
        key = building_generation_key(self._prefix)
        while True:
            async with self._store_errors():
                begun = await self._client.set(
                    key, encode_generation(generation), px=self._building_ttl, nx=True
                )
            building = generation if begun else await self.building()
            if building is not None:
                return building
            # Meanwhile it was finished or expired, or its record was unreadable.

    async def abandon(self, generation: Generation) -> None:
        """See GenerationStore."""
        await self._run(ABANDON, generation)

    async def intersect_posts(self, generation: Generation, post_ids: IntArray) -> None:
        """See GenerationStore. Compares and sets, so that concurrent runs do not overwrite each other."""
        key = generation_posts_key(self._prefix, generation.generation_id)
        while True:
            async with self._store_errors():
                stored = cast(bytes | None, await self._client.get(key))
            remaining = _intersection(stored, key, post_ids)
            state = await self._run(INTERSECT, generation, stored or b"", remaining, self._building_ttl)
            if state == _GONE:
                raise GenerationGone(GONE)
            if state == _UNFINISHED:
                await self._extend_life(generation)
                return

    async def are_stored(self, generation: Generation, keys: Sequence[bytes]) -> list[bool]:
        """See GenerationStore."""
        are_stored: list[bool] = []
        for start in range(0, len(keys), BATCH_KEYS):
            pipeline = self._client.pipeline(transaction=False)
            for key in keys[start : start + BATCH_KEYS]:
                pipeline.exists(self._timeline_key(generation, key))
            async with self._store_errors():
                are_stored += [reply == 1 for reply in await pipeline.execute()]
        await self._extend_life(generation)
        return are_stored

    async def put(self, generation: Generation, timelines: Sequence[tuple[bytes, RankedTimeline]]) -> int:
        """See GenerationStore."""
        size = 0
        for batch in _batches(self._write(generation, key, timeline) for key, timeline in timelines):
            pipeline = self._client.pipeline(transaction=False)
            for write in batch:
                pipeline.set(write.key, write.value or b"", px=write.ttl_ms)
                size += len(write.value or b"")
            async with self._store_errors():
                await pipeline.execute()
        await self._extend_life(generation)
        return size

    async def finish_shard(self, generation: Generation, shard: int) -> bool:
        """See GenerationStore. One script, so that exactly one of the shards that finish at once swaps."""
        state = await self._run(
            FINISH, generation, shard, generation.shards, self._building_ttl, self._current_ttl
        )
        if state == _GONE:
            raise GenerationGone(GONE)
        return state == _IS_CURRENT

    async def retire(self, generation: Generation) -> int:
        """See GenerationStore. SCAN may return a key twice, so the count is approximate."""
        pattern = stored_timeline_pattern(self._prefix, generation.generation_id)
        count = 0
        batch: list[bytes] = []
        async with self._store_errors():
            await self._shorten_ttl([generation_posts_key(self._prefix, generation.generation_id)])
            async for key in self._client.scan_iter(match=pattern, count=BATCH_KEYS):
                batch.append(key)
                if len(batch) == BATCH_KEYS:
                    await self._shorten_ttl(batch)
                    count += len(batch)
                    batch = []
            await self._shorten_ttl(batch)
        return count + len(batch)

    async def _extend_life(self, generation: Generation) -> None:
        """Extends the TTLs of a generation that is being built."""
        await self._run(EXTEND, generation, self._building_ttl)

    async def _shorten_ttl(self, keys: list[bytes]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.pexpire(key, self._retired_ttl, lt=True)
        await pipeline.execute()

    async def _record(self, key: bytes) -> Generation | None:
        """The generation of a record; None if there is none. An unreadable record is deleted."""
        async with self._store_errors():
            value = cast(bytes | None, await self._client.get(key))
            try:
                return None if value is None else decode_generation(value)
            except UnreadableValue:
                await self._client.delete(key)
                return None

    async def _run(self, script: str, generation: Generation, *arguments: int | bytes) -> int:
        stored = (
            current_generation_key(self._prefix),
            building_generation_key(self._prefix),
            finished_shards_key(self._prefix, generation.generation_id),
            generation_posts_key(self._prefix, generation.generation_id),
        )
        async with self._store_errors():
            reply = self._client.eval(
                script, len(stored), *stored, generation.generation_id.hex(), *arguments
            )
            return int(await reply)

    @asynccontextmanager
    async def _store_errors(self) -> AsyncIterator[None]:
        """Raises Redis errors as StoreError, and disconnects, so that a retry resolves the address again."""
        try:
            yield
        except REDIS_FAILED as error:
            with suppress(*REDIS_FAILED):
                await drop_connections(self._client)
            raise StoreError(f"Redis: {type(error).__name__}: {error}") from error

    def _write(self, generation: Generation, key: bytes, timeline: RankedTimeline) -> Write:
        stored_key = self._timeline_key(generation, key)
        return Write(
            stored_key, encode_timeline(stored_key, timeline), self._timeline_ttl.milliseconds(timeline)
        )

    def _timeline_key(self, generation: Generation, key: bytes) -> bytes:
        return stored_timeline_key(self._prefix, generation.generation_id, key)


def _intersection(stored: bytes | None, key: bytes, post_ids: IntArray) -> bytes:
    """The value to store under a generation's posts key.

    It holds the posts int64 (k) that are also in the stored value, or all of them if nothing is stored. An
    unreadable value becomes UNKNOWN_POSTS: the posts of the earlier runs are lost, so the intersection stays
    unknown for this generation.
    """
    if stored is None:
        return encode_posts(key, post_ids)
    try:
        return encode_posts(key, np.intersect1d(decode_posts(stored, key), post_ids, assume_unique=True))
    except UnreadableValue:
        log.warning("stored posts of the generation are unreadable; late posts will not be found")
        return UNKNOWN_POSTS


def _batches(writes: Iterable[Write]) -> Iterator[list[Write]]:
    batch: list[Write] = []
    size = 0
    for write in writes:
        if batch and size + write.size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(write)
        size += write.size
    if batch:
        yield batch
