"""Which list to cut a page from: one that was kept, as long as it will do, or a new one."""

import asyncio
import time
from collections.abc import Callable
from random import Random

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import RankedTimelineGone
from animora_server.scoring.protocols import ServingState
from animora_server.settings import TimelineSettings
from animora_server.timeline.builder import BuildRequest, TimelineBuilder
from animora_server.timeline.feed_ranker import FeedKey
from animora_server.timeline.freshness import Freshness, freshness
from animora_server.timeline.late import LatePosts
from animora_server.timeline.protocols import TimelineStore
from animora_server.types import CacheStatus, IntArray, RankedTimeline

WRITTEN_WITHIN = 2.0  # seconds after its first page; a write that takes longer has failed
ANSWERED_WITHIN = (
    5.0  # seconds for which a store that does not answer is asked for a list, if the caller waits
)


class TimelineResolver:
    """Finds lists, and has those made and renewed that are not there or will not do.

    Args:
        store: What was made before.
        producer: Makes lists.
        late: Finds posts that precomputed lists lack though they are older.
        settings: How long a list is served.
        patience: Seconds with which a caller can wait for the store's own timeouts, and need not be watched.
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: TimelineStore,
        producer: TimelineBuilder,
        late: LatePosts,
        settings: TimelineSettings,
        patience: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._producer = producer
        self._late = late
        self._settings = settings
        self._patience = patience
        self._clock = clock
        self._random = Random()

    async def pinned(self, key: bytes, snapshot_id: bytes, age: float, answer_by: float) -> RankedTimeline:
        """The list that a page token names.

        Args:
            key: Names the user's lists.
            snapshot_id: The list's.
            age: Seconds since its first page, about; negative where another host's clock is ahead, or told
                tokens another time to live.
            answer_by: When it must be there, on the event loop's clock.

        Raises:
            RankedTimelineGone: It is no longer there.
        """
        now = asyncio.get_running_loop().time()
        answer_by = min(answer_by, now + ANSWERED_WITHIN)
        written_by = min(answer_by, now + max(0.0, WRITTEN_WITHIN - max(0.0, age)))
        snapshot = await self._store.pinned(key, snapshot_id, answer_by, written_by)
        if snapshot is None or snapshot.is_from_the_future(self._clock()):
            raise RankedTimelineGone
        return snapshot

    async def first(self, state: ServingState, request: BuildRequest) -> tuple[RankedTimeline, CacheStatus]:
        """The list to cut a first page from.

        Raises:
            Refused: Too much is being ranked.
            DeadlineExceeded: Not even the heuristic fits into the time that is left.
        """
        if not request.policy.reads:
            return await self._producer.make(state, request), CacheStatus.BYPASS
        snapshot = await self._latest(request)
        if snapshot is None or not _is_current(state, request.feed_key, snapshot):
            return await self._producer.make(state, request), CacheStatus.MISS
        stale_ttl, beta = self._settings.stale_ttl, self._settings.early_refresh
        match freshness(snapshot, self._clock(), stale_ttl, beta, 1.0 - self._random.random()):
            case Freshness.FRESH:
                # What became visible late since cannot be told from what the list passed over. Precomputed
                # lists, whose cost is unknown, are too many to be renewed: for those LatePosts tells it.
                if snapshot.read_at < state.snapshot.loaded_at and snapshot.cost:
                    self._producer.renew(state, request, "restart")
                return snapshot, CacheStatus.HIT
            case Freshness.DUE:
                self._producer.renew(state, request, "early")
                return snapshot, CacheStatus.HIT
            case Freshness.STALE:
                self._producer.renew(state, request, "stale")
                return snapshot, CacheStatus.STALE
            case Freshness.EXPIRED:
                return await self._producer.make(state, request), CacheStatus.MISS

    def overtaken(self, state: ServingState, request: BuildRequest) -> None:
        """Has a list renewed that more newer posts have come to than fit on a first page."""
        self._producer.renew(state, request, "newer")

    def newer(self, catalog: CatalogSnapshot, snapshot: RankedTimeline) -> IntArray:
        """Rows int64 (m), ascending, of the posts that came, or became visible, after a list was made.

        Of more than `timeline.max_candidates` posts the latest are given.
        """
        most = self._settings.max_candidates
        rows = catalog.newer_than(snapshot.read_at, most)
        late = self._late.rows(catalog, snapshot, self._clock())
        return (np.union1d(late, rows) if len(late) else rows)[-most:]

    async def _latest(self, request: BuildRequest) -> RankedTimeline | None:
        """The latest list; None also where the caller has no time for the look-up."""
        if request.score_by - asyncio.get_running_loop().time() > self._patience:
            return await self._store.latest(request.key)
        try:
            async with asyncio.timeout_at(request.score_by):
                return await self._store.latest(request.key)
        except TimeoutError:
            return None


def _is_current(state: ServingState, feed_key: FeedKey, snapshot: RankedTimeline) -> bool:
    """Whether a list was ranked by what would rank it now; while no model is loaded any list is better."""
    if state.active is None:
        return True
    expected = state.active.version if state.active.user_row(feed_key.user_id) else ""
    return snapshot.model_version == expected
