"""Ranked timelines in this process: the store without Redis, and the second tier behind Redis."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from math import inf

from animora_server.background import log_task_failure
from animora_server.timeline.protocols import TimelineStore
from animora_server.types import RankedTimeline

MAX_BYTES = 64 << 20
POST_BYTES = 12  # an id and a score
RETRY_DELAYS = (0.05, 0.2, 0.8)  # seconds; other processes wait for as long, see resolver.WRITE_TIMEOUT
MAX_RETRIES = 1024  # concurrent
OVERHEAD_BYTES = 1024  # of a timeline without its posts, roughly


class LocalTimelineStore:
    """A bounded store in memory with LRU eviction; see `protocols.TimelineStore`.

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

    async def latest(self, key: bytes) -> RankedTimeline | None:
        """See TimelineStore."""
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
        self._bytes += _size(timeline)
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
        self._bytes -= _size(timeline)
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

    async def latest(self, key: bytes) -> RankedTimeline | None:
        """See TimelineStore. Local timelines do not count: other processes would never refresh them."""
        return await self._store.latest(key)

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


def _size(timeline: RankedTimeline) -> int:
    return OVERHEAD_BYTES + POST_BYTES * len(timeline.post_ids)
