"""Where ranked timelines are stored: their keys, the interface of a store, and the store in this process.

The store in Redis is `cache.timelines`. In this process timelines are stored where there is no Redis, and as
a second tier behind it.
"""

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from math import inf
from typing import Protocol

from animora_server.background import log_task_failure
from animora_server.settings import RankingSettings, TimelineSettings
from animora_server.types import RankedTimeline

# The settings that shape a ranked timeline. The rest concern its time to live and its pages.
TIMELINE_SETTINGS = (
    "window_days", "max_candidates", "max_posts", "max_bytes", "include_own", "recency_weight",
    "popularity_weight", "author_discount", "exploration_share", "exploration_below",
)  # fmt: skip
HEURISTIC_SETTINGS = ("popularity_weight", "recency_scale_hours")

MAX_BYTES = 64 << 20
POST_BYTES = 12  # an id and a score
RETRY_DELAYS = (0.05, 0.2, 0.8)  # seconds; in sum less than provider.WRITE_TIMEOUT, for which readers wait
MAX_RETRIES = 1024  # concurrent
OVERHEAD_BYTES = 1024  # of a timeline without its posts, roughly


def settings_digest(timeline: TimelineSettings, ranking: RankingSettings) -> str:
    """16 hexadecimal digits; settings that shape ranked timelines differently have different digests."""
    values = [getattr(timeline, name) for name in TIMELINE_SETTINGS]
    values += [getattr(ranking, name) for name in HEURISTIC_SETTINGS]
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=8).hexdigest()


def timeline_key(user_id: int, digest: str, *, include_seen: bool) -> bytes:
    """The key of a user's timelines, printable. The braces put all keys of a user into one Redis slot.

    Args:
        user_id: Any signed 64-bit integer.
        digest: The settings' digest.
        include_seen: Whether the timeline keeps posts that the user has liked or commented on.
    """
    return f"{{{user_id}}}:{digest}:{'all' if include_seen else 'new'}".encode()


def timeline_bytes(timeline: RankedTimeline) -> int:
    """The memory of a ranked timeline, roughly."""
    return OVERHEAD_BYTES + POST_BYTES * len(timeline.post_ids)


class TimelineStore(Protocol):
    """Stored ranked timelines. Best effort: no method raises.

    A key stands for a user, the options that a caller may choose, and a digest of the settings that shape a
    ranked timeline (`timeline_key`). A key may have several timelines; one of them is the latest.
    """

    async def latest(self, key: bytes, answer_by: float = inf) -> RankedTimeline | None:
        """The newest timeline of a key by `made_at`: the last one put as latest, or the generation's.

        None also for a store that does not answer in time: by `answer_by`, on the event loop's clock.
        """
        ...

    async def by_id(
        self, key: bytes, timeline_id: bytes, answer_by: float = inf, written_by: float = -inf
    ) -> RankedTimeline | None:
        """The timeline of a key with a given id, which no other timeline can replace.

        Args:
            key: The key.
            timeline_id: 16 bytes.
            answer_by: Until when a store that does not answer is retried, on the event loop's clock.
            written_by: Until when a missing timeline is looked up again, on the same clock: another process
                may still be writing it.
        """
        ...

    async def put(self, key: bytes, timeline: RankedTimeline) -> bool:
        """Stores a timeline for its page tokens.

        Returns:
            Whether it can be read back; known after the store's timeout at the latest.
        """
        ...

    async def put_latest(self, key: bytes, timeline: RankedTimeline) -> bool:
        """Stores a timeline as `put` does, and makes it the key's latest."""
        ...


class LocalTimelineStore:
    """A bounded store in memory with LRU eviction; see TimelineStore.

    Args:
        lifetime: Seconds for which a timeline is stored after it is no longer fresh.
        clock: Unix seconds.
        max_bytes: Bound of the estimated size.
    """

    def __init__(
        self, lifetime: float, clock: Callable[[], float] = time.time, max_bytes: int = MAX_BYTES
    ) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._max_bytes = max_bytes
        self._bytes = 0
        self._timelines: OrderedDict[tuple[bytes, bytes], RankedTimeline] = OrderedDict()
        self._latest: dict[bytes, bytes] = {}

    async def latest(self, key: bytes, answer_by: float = inf) -> RankedTimeline | None:
        """See TimelineStore. Answers at once."""
        return self._find(key, self._latest[key]) if key in self._latest else None

    async def by_id(
        self, key: bytes, timeline_id: bytes, answer_by: float = inf, written_by: float = -inf
    ) -> RankedTimeline | None:
        """See TimelineStore. Answers at once: no other process writes here."""
        return self._find(key, timeline_id)

    async def put(self, key: bytes, timeline: RankedTimeline) -> bool:
        """See TimelineStore."""
        self._drop((key, timeline.timeline_id))
        self._timelines[key, timeline.timeline_id] = timeline
        self._bytes += timeline_bytes(timeline)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._timelines)))
        return (key, timeline.timeline_id) in self._timelines

    async def put_latest(self, key: bytes, timeline: RankedTimeline) -> bool:
        """See TimelineStore."""
        kept = await self.put(key, timeline)
        if kept:
            self._latest[key] = timeline.timeline_id
        return kept

    def discard(self, key: bytes, timeline_id: bytes) -> None:
        """Drops a timeline, if it is stored."""
        self._drop((key, timeline_id))

    def _find(self, key: bytes, timeline_id: bytes) -> RankedTimeline | None:
        timeline = self._timelines.get((key, timeline_id))
        if timeline is None:
            return None
        if timeline.fresh_until + self._lifetime < self._clock():
            self._drop((key, timeline_id))
            return None
        self._timelines.move_to_end((key, timeline_id))
        return timeline

    def _drop(self, name: tuple[bytes, bytes]) -> None:
        timeline = self._timelines.pop(name, None)
        if timeline is None:
            return
        self._bytes -= timeline_bytes(timeline)
        if self._latest.get(name[0]) == name[1]:
            del self._latest[name[0]]


class TieredTimelineStore:
    """A shared store, with a local one for timelines that the shared store did not take, or not yet.

    So later pages work in this process while the shared store fails. A failed write is retried a few times,
    so that other processes can serve later pages, too.
    """

    def __init__(self, store: TimelineStore, local: LocalTimelineStore) -> None:
        self._store = store
        self._local = local
        self._retries: set[asyncio.Task[None]] = set()

    async def latest(self, key: bytes, answer_by: float = inf) -> RankedTimeline | None:
        """See TimelineStore. Local timelines do not count: other processes would never refresh them."""
        return await self._store.latest(key, answer_by)

    async def by_id(
        self, key: bytes, timeline_id: bytes, answer_by: float = inf, written_by: float = -inf
    ) -> RankedTimeline | None:
        """See TimelineStore."""
        local = await self._local.by_id(key, timeline_id, answer_by, written_by)
        return local or await self._store.by_id(key, timeline_id, answer_by, written_by)

    async def put(self, key: bytes, timeline: RankedTimeline) -> bool:
        """See TimelineStore."""
        return await self._put_until_stored(self._store.put(key, timeline), key, timeline)

    async def put_latest(self, key: bytes, timeline: RankedTimeline) -> bool:
        """See TimelineStore."""
        return await self._put_until_stored(self._store.put_latest(key, timeline), key, timeline)

    async def aclose(self) -> None:
        """Cancels the retries."""
        for task in self._retries:
            task.cancel()
        await asyncio.gather(*self._retries, return_exceptions=True)

    async def _put_until_stored(self, write: Awaitable[bool], key: bytes, timeline: RankedTimeline) -> bool:
        """Stores a timeline locally until the shared store has it. Returns whether it can be read back."""
        kept = await self._local.put(key, timeline)
        if await write:
            self._local.discard(key, timeline.timeline_id)
            return True
        if len(self._retries) < MAX_RETRIES:
            task = asyncio.create_task(self._retry(key, timeline), name="timeline-write-retry")
            self._retries.add(task)
            task.add_done_callback(self._retries.discard)
            log_task_failure(task, "retry of a timeline write failed")
        return kept

    async def _retry(self, key: bytes, timeline: RankedTimeline) -> None:
        for pause in RETRY_DELAYS:
            await asyncio.sleep(pause)
            if await self._store.put(key, timeline):
                self._local.discard(key, timeline.timeline_id)
                return
