"""Finds the ranked timeline that a page is cut from, and decides whether to build or refresh one.

A ranked timeline that took `cost` seconds to build is refreshed early at time t with the probability that
t - cost * beta * ln(u) >= fresh_until, for u uniform in (0, 1], so that timelines of the same age are not
all refreshed at once (XFetch: Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache Stampede
Prevention", VLDB 2015).
"""

import asyncio
import math
import time
from collections.abc import Callable
from enum import StrEnum
from random import Random

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import RankedTimelineGone
from animora_server.scoring.serving_state import ServingState
from animora_server.settings import TimelineSettings
from animora_server.timeline.builder import BuildRequest, TimelineBuilder
from animora_server.timeline.feed_ranker import FeedKey
from animora_server.timeline.late import LatePosts
from animora_server.timeline.protocols import TimelineStore
from animora_server.types import CacheStatus, IntArray, RankedTimeline

WRITE_TIMEOUT = 2.0  # seconds after the first page; a write that takes longer has failed
ANSWER_TIMEOUT = 5.0  # seconds for which a store that does not answer is retried, if the deadline allows it


class Freshness(StrEnum):
    """What may be done with a stored ranked timeline."""

    FRESH = "fresh"  # serve it
    DUE = "due"  # serve it as fresh, and refresh it in the background
    STALE = "stale"  # serve it as stale, and refresh it in the background
    EXPIRED = "expired"  # build another; only page tokens still lead to it


def freshness(timeline: RankedTimeline, now: float, stale_ttl: float, beta: float, draw: float) -> Freshness:
    """How fresh a ranked timeline is.

    Args:
        timeline: The ranked timeline.
        now: Unix seconds.
        stale_ttl: Seconds for which it may be served after it is no longer fresh.
        beta: How eagerly timelines are refreshed early; 0 never does.
        draw: A number drawn uniformly from (0, 1].
    """
    if now >= timeline.fresh_until + stale_ttl or timeline.is_from_the_future(now):
        return Freshness.EXPIRED
    if now >= timeline.fresh_until:
        return Freshness.STALE
    early = now - timeline.cost * beta * math.log(draw)
    return Freshness.DUE if early >= timeline.fresh_until else Freshness.FRESH


class TimelineResolver:
    """Finds stored ranked timelines; has missing and expired ones built, and aging ones refreshed.

    Args:
        store: Stored ranked timelines.
        builder: Builds ranked timelines.
        late: Finds the late posts that precomputed timelines lack.
        settings: How long a ranked timeline is served.
        lookup_limit: Seconds within which the store answers by its own timeouts. A look-up with less time
            before its deadline is bounded by the deadline.
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: TimelineStore,
        builder: TimelineBuilder,
        late: LatePosts,
        settings: TimelineSettings,
        lookup_limit: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._builder = builder
        self._late = late
        self._settings = settings
        self._lookup_limit = lookup_limit
        self._clock = clock
        self._random = Random()

    async def by_id(self, key: bytes, timeline_id: bytes, age: float, answer_by: float) -> RankedTimeline:
        """The ranked timeline that a page token names.

        Args:
            key: The key of the user's timelines.
            timeline_id: 16 bytes.
            age: Approximate seconds since its first page. Negative if the clock of the host that signed the
                token is ahead, or its `timeline.token_ttl` is longer.
            answer_by: The deadline, on the event loop's clock.

        Raises:
            RankedTimelineGone: It is no longer stored.
        """
        now = asyncio.get_running_loop().time()
        answer_by = min(answer_by, now + ANSWER_TIMEOUT)
        written_by = min(answer_by, now + max(0.0, WRITE_TIMEOUT - max(0.0, age)))
        timeline = await self._store.by_id(key, timeline_id, answer_by, written_by)
        if timeline is None or timeline.is_from_the_future(self._clock()):
            raise RankedTimelineGone
        return timeline

    async def for_first_page(
        self, state: ServingState, request: BuildRequest
    ) -> tuple[RankedTimeline, CacheStatus]:
        """The ranked timeline to cut a first page from.

        Raises:
            TooManyRequests: Too many candidates are being ranked.
            DeadlineExpired: Not even the heuristic fits into the time that is left.
        """
        if not request.policy.reads:
            return await self._builder.build(state, request), CacheStatus.BYPASS
        timeline = await self._latest(request)
        if timeline is None or not _is_by_current_ranker(state, request.feed_key, timeline):
            return await self._builder.build(state, request), CacheStatus.MISS
        stale_ttl, beta = self._settings.stale_ttl, self._settings.early_refresh
        match freshness(timeline, self._clock(), stale_ttl, beta, 1.0 - self._random.random()):
            case Freshness.FRESH:
                # The timeline is older than this server's load of the catalog, so its late posts are unknown.
                # Precomputed timelines (cost 0) are too many to refresh; LatePosts finds theirs.
                if timeline.read_at < state.snapshot.loaded_at and timeline.cost:
                    self._builder.refresh_in_background(state, request, "restart")
                return timeline, CacheStatus.HIT
            case Freshness.DUE:
                self._builder.refresh_in_background(state, request, "early")
                return timeline, CacheStatus.HIT
            case Freshness.STALE:
                self._builder.refresh_in_background(state, request, "stale")
                return timeline, CacheStatus.STALE
            case Freshness.EXPIRED:
                return await self._builder.build(state, request), CacheStatus.MISS

    def refresh_for_newer_posts(self, state: ServingState, request: BuildRequest) -> None:
        """Refreshes a timeline in the background whose newer posts do not fit on a first page."""
        self._builder.refresh_in_background(state, request, "newer")

    def newer_rows(self, catalog: CatalogSnapshot, timeline: RankedTimeline) -> IntArray:
        """Catalog rows int64 (m), ascending, of the newer posts and late posts of a ranked timeline.

        At most `timeline.max_candidates` of them, the latest.
        """
        limit = self._settings.max_candidates
        rows = catalog.newer_than(timeline.read_at, limit)
        late = self._late.rows(catalog, timeline, self._clock())
        return (np.union1d(late, rows) if len(late) else rows)[-limit:]

    async def _latest(self, request: BuildRequest) -> RankedTimeline | None:
        """The latest stored timeline; None also where the look-up does not end in time."""
        if request.score_by - asyncio.get_running_loop().time() > self._lookup_limit:
            return await self._store.latest(request.key)
        try:
            async with asyncio.timeout_at(request.score_by):
                return await self._store.latest(request.key)
        except TimeoutError:
            return None


def _is_by_current_ranker(state: ServingState, feed_key: FeedKey, timeline: RankedTimeline) -> bool:
    """Whether the ranker of a timeline is the one that would rank it now; True while no model is loaded."""
    if state.active is None:
        return True
    expected = state.active.version if state.active.user_row(feed_key.user_id) else ""
    return timeline.model_version == expected
