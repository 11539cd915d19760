"""All stores over one Redis, with their metrics."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import numpy as np
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from redis.asyncio import Redis

from animora_server.cache import GenerationWatch, RedisCache, RedisTimelineStore
from animora_server.observability.metrics import CacheMetrics
from animora_server.precompute.generation_store import RedisGenerations
from animora_server.settings import CacheSettings, PrecomputeSettings, TimelineSettings
from animora_server.types import Generation, RankedTimeline, RankerName
from tests.support.until import until

KEY = b"{7}:0123456789abcdef:new"
NOW = 1_800_000_000.0
TIMELINE = TimelineSettings()
PRECOMPUTE = PrecomputeSettings()


def make_timeline(made_at: float = NOW, *, name: bytes = b"list", posts: int = 500) -> RankedTimeline:
    """A timeline whose id depends on name and time."""
    ids = np.random.default_rng(posts).permutation(10 * posts + 1)[:posts] + 10**9
    scores = np.linspace(1, 0, posts, dtype=np.float32)
    timeline_id = (name + b"%d" % made_at).rjust(16, b".")
    return RankedTimeline(
        timeline_id, ids, scores, RankerName.NEUCF, "v1", made_at, made_at + 300, made_at - 1
    )


def make_generation(made_at: float = NOW, *, name: bytes = b"generation", shards: int = 1) -> Generation:
    return Generation(name.rjust(16, b"."), made_at, made_at - 1, "v1", "catalog", "settings", shards)


def of_generation(generation: Generation, posts: int = 500) -> RankedTimeline:
    """A precomputed timeline of a generation."""
    made = make_timeline(generation.made_at, posts=posts)
    return RankedTimeline(
        generation.generation_id, made.post_ids, made.scores, made.ranker, made.model_version,
        generation.made_at, generation.made_at + TIMELINE.precomputed_ttl, generation.read_at,
    )  # fmt: skip


def name_of(snapshot: RankedTimeline | None) -> bytes | None:
    return None if snapshot is None else snapshot.timeline_id


class Stores:
    """Timelines, the watch and generations in one Redis; an async context manager.

    Args:
        url: Of the Redis.
        timeout: Seconds for a look-up.
        interval: Seconds between two looks at the generation.
        options: Further options of `cache`.
    """

    def __init__(
        self, url: str, *, timeout: float = 10.0, interval: float = 0.001, **options: Path | None
    ) -> None:
        self.registry = CollectorRegistry()
        settings = CacheSettings.model_validate({"url": SecretStr(url), "timeout": timeout, **options})
        metrics = CacheMetrics(self.registry)
        self.redis = RedisCache(settings, metrics)
        self.watch = GenerationWatch(self.redis, interval, metrics)
        self.timelines = RedisTimelineStore(self.redis, self.watch, TIMELINE, metrics, clock=lambda: NOW)
        self.generations = RedisGenerations(settings, TIMELINE, PRECOMPUTE)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Stores":
        await self._stack.enter_async_context(self.redis)
        await self._stack.enter_async_context(self.watch)
        await self._stack.enter_async_context(self.generations)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def publish(self, generation: Generation, *keys: bytes) -> None:
        """Builds a generation of one shard with a timeline for each key; returns once the watch knows it."""
        await self.generations.begin(generation)
        await self.generations.put(generation, [(key, of_generation(generation)) for key in keys])
        assert await self.generations.finish_shard(generation, 0)
        await until(lambda: self.watch.current == generation)

    async def until_stored(self, snapshot: RankedTimeline, key: bytes = KEY) -> None:
        await until(lambda: self.timelines.put_latest(key, snapshot))

    async def until_latest(self, snapshot: RankedTimeline, key: bytes = KEY) -> None:
        async def is_latest() -> bool:
            return name_of(await self.timelines.latest(key)) == snapshot.timeline_id

        await until(is_latest)

    async def fail_until_skipped(self) -> None:
        while not self.is_skipped:
            assert await self.timelines.latest(KEY) is None

    def lookup_count(self, outcome: str, kind: str = "timelines") -> float:
        return self.sample("animora_cache_lookups_total", {"kind": kind, "outcome": outcome})

    @property
    def is_skipped(self) -> bool:
        return self.sample("animora_cache_breaker_open", {}) == 1

    def sample(self, name: str, labels: dict[str, str]) -> float:
        value = self.registry.get_sample_value(name, labels)
        assert value is not None
        return value


async def lives(client: Redis) -> dict[bytes, int]:
    """Milliseconds that each key has left, -1 for one that never expires."""
    keys = cast(list[bytes], await client.keys())
    return {key: await client.pttl(key) for key in keys}


async def until_deleted(client: Redis, key: bytes) -> None:
    """Waits until Redis has no such key."""

    async def is_deleted() -> bool:
        return not await client.exists(key)

    await until(is_deleted)


async def make_full(client: Redis) -> None:
    """Makes a Redis refuse writes for want of memory."""
    await client.config_set("maxmemory-policy", "noeviction")
    await client.config_set("maxmemory", "1")


async def make_read_only(client: Redis) -> None:
    """Makes a Redis refuse writes as a replica."""
    await client.replicaof("127.0.0.1", "1")
