"""Lists kept in this process: the store where there is no Redis, and for what Redis did not take."""

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
OFFER_AGAIN_AFTER = (0.05, 0.2, 0.8)  # seconds; other processes wait for as long, see lists.WRITTEN_WITHIN
MAX_OFFERED_AGAIN = 1024  # lists at a time
LIST_BYTES = 1024  # what a list takes beside its posts, roughly


class LocalTimelineStore:
    """A bounded store in memory; see `protocols.TimelineStore`. The list unused for longest goes first.

    Args:
        lifetime: Seconds that a list is kept after it is no longer fresh.
        clock: Unix seconds.
    """

    def __init__(
        self, lifetime: float, clock: Callable[[], float] = time.time, max_bytes: int = MAX_BYTES
    ) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lists: OrderedDict[tuple[bytes, bytes], RankedTimeline] = OrderedDict()
        self._latest: dict[bytes, bytes] = {}

    async def latest(self, key: bytes) -> RankedTimeline | None:
        """See TimelineStore."""
        return self._find(key, self._latest[key]) if key in self._latest else None

    async def pinned(
        self, key: bytes, snapshot_id: bytes, answer_by: float = inf, written_by: float = -inf
    ) -> RankedTimeline | None:
        """See TimelineStore. What is not there now will not come."""
        return self._find(key, snapshot_id)

    async def keep(self, key: bytes, snapshot: RankedTimeline) -> bool:
        """See TimelineStore."""
        self._drop((key, snapshot.snapshot_id))
        self._lists[key, snapshot.snapshot_id] = snapshot
        self._bytes += _size(snapshot)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._lists)))
        return (key, snapshot.snapshot_id) in self._lists

    async def make_latest(self, key: bytes, snapshot: RankedTimeline) -> bool:
        """See TimelineStore."""
        kept = await self.keep(key, snapshot)
        if kept:
            self._latest[key] = snapshot.snapshot_id
        return kept

    def forget(self, key: bytes, snapshot_id: bytes) -> None:
        """Drops a list, if it is there."""
        self._drop((key, snapshot_id))

    def _find(self, key: bytes, snapshot_id: bytes) -> RankedTimeline | None:
        snapshot = self._lists.get((key, snapshot_id))
        if snapshot is None:
            return None
        if snapshot.fresh_until + self._lifetime < self._clock():
            self._drop((key, snapshot_id))
            return None
        self._lists.move_to_end((key, snapshot_id))
        return snapshot

    def _drop(self, name: tuple[bytes, bytes]) -> None:
        snapshot = self._lists.pop(name, None)
        if snapshot is None:
            return
        self._bytes -= _size(snapshot)
        if self._latest.get(name[0]) == name[1]:
            del self._latest[name[0]]


class TieredTimelineStore:
    """A store, and a local one for what it has not taken, or not yet: paging goes on where it began.

    A list that the store did not take is offered to it again a few times, so that other processes can go on
    with its pages although the store was away for a moment.
    """

    def __init__(self, store: TimelineStore, local: LocalTimelineStore) -> None:
        self._store = store
        self._local = local
        self._again: set[asyncio.Task[None]] = set()

    async def latest(self, key: bytes) -> RankedTimeline | None:
        """See TimelineStore. What was only kept here is nobody's latest: others would not see it renewed."""
        return await self._store.latest(key)

    async def pinned(
        self, key: bytes, snapshot_id: bytes, answer_by: float = inf, written_by: float = -inf
    ) -> RankedTimeline | None:
        """See TimelineStore."""
        local = await self._local.pinned(key, snapshot_id, answer_by, written_by)
        return local or await self._store.pinned(key, snapshot_id, answer_by, written_by)

    async def keep(self, key: bytes, snapshot: RankedTimeline) -> bool:
        """See TimelineStore."""
        return await self._keep_until(self._store.keep(key, snapshot), key, snapshot)

    async def make_latest(self, key: bytes, snapshot: RankedTimeline) -> bool:
        """See TimelineStore."""
        return await self._keep_until(self._store.make_latest(key, snapshot), key, snapshot)

    async def aclose(self) -> None:
        """Offers nothing any more."""
        for task in self._again:
            task.cancel()
        await asyncio.gather(*self._again, return_exceptions=True)

    async def _keep_until(self, stored: Awaitable[bool], key: bytes, snapshot: RankedTimeline) -> bool:
        """Keeps a list here until the store has it; whether it can be read back."""
        kept = await self._local.keep(key, snapshot)
        if await stored:
            self._local.forget(key, snapshot.snapshot_id)
            return True
        if len(self._again) < MAX_OFFERED_AGAIN:
            task = asyncio.create_task(self._offer_again(key, snapshot), name="timeline-offer")
            self._again.add(task)
            task.add_done_callback(self._again.discard)
            log_task_failure(task, "a list could not be offered to the store again")
        return kept

    async def _offer_again(self, key: bytes, snapshot: RankedTimeline) -> None:
        for pause in OFFER_AGAIN_AFTER:
            await asyncio.sleep(pause)
            if await self._store.keep(key, snapshot):
                self._local.forget(key, snapshot.snapshot_id)
                return


def _size(snapshot: RankedTimeline) -> int:
    return LIST_BYTES + POST_BYTES * len(snapshot.post_ids)
