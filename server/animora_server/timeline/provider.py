"""Provides ranked timelines: stored ones while they are fresh or stale, else one that is built and stored."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from random import Random
from typing import Any, Protocol

from animora_server.background import log_task_failure
from animora_server.degradation import (
    MISSING_TIMELINE,
    STORED_TIMELINES,
    UNREAD_TIMELINE,
    Freshness,
    Step,
    fallback_for,
)
from animora_server.errors import DeadlineExpired, RankedTimelineGone, ScoringFailed
from animora_server.fast_dataclass import fast_dataclass
from animora_server.scoring.serving_state import ServingState
from animora_server.scoring.single_flight import RecentResults, SingleFlight
from animora_server.scoring.transforms import expired
from animora_server.settings import TimelineSettings
from animora_server.timeline.feed_ranker import FeedRanker
from animora_server.timeline.store import TimelineStore, timeline_bytes
from animora_server.types import CacheStatus, DegradedReason, RankedTimeline, TimelineQuery

WRITE_TIMEOUT = 2.0  # seconds after the first page; a write that takes longer has failed
ANSWER_TIMEOUT = 5.0  # seconds for which a store that does not answer is retried, if the deadline allows it
MAX_REFRESHES = 32  # concurrent background refreshes; beyond it a timeline is served a little longer
SHARE_SECONDS = 1.0  # for which a built timeline is given to callers who do not find it in the store
MAX_SHARED_BYTES = 4 << 20


class RefreshCounter(Protocol):
    """Counts background refreshes."""

    def refreshed(self, why: str) -> None:
        """Counts one: "early", "stale", "newer", "restart" or "degraded"."""
        ...


class CandidateAdmission(Protocol):
    """Bounds the candidates in flight."""

    def admit_rows(self, rows: int) -> AbstractContextManager[None]:
        """Admits this many candidates for the length of the block. Raises TooManyRequests."""
        ...


def freshness(timeline: RankedTimeline, now: float, stale_ttl: float, beta: float, draw: float) -> Freshness:
    """How fresh a ranked timeline is.

    A timeline that took `cost` seconds to build is due before `fresh_until` with a probability that grows as
    that time comes near, so that timelines of the same age are not all refreshed at once (XFetch: Vattani,
    Chierichetti and Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015).

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


@fast_dataclass
class BuildRequest:
    """Which ranked timeline a call needs, and what builds it.

    Attributes:
        key: The key of the user's timelines.
        query: The call.
        state: The serving state; its active model ranks.
        ranker: Ranks the feed.
    """

    key: bytes
    query: TimelineQuery
    state: ServingState
    ranker: FeedRanker


class TimelineProvider:
    """Looks ranked timelines up, and builds those that are missing or expired.

    Callers with the same key share one build, each with its own deadline. A timeline that is due or stale is
    refreshed in the background.

    Args:
        store: Stored ranked timelines.
        settings: How long a ranked timeline is served.
        admission: Bounds the candidates that are ranked at once.
        refreshes: Counts background refreshes.
        clock: Unix seconds.
        monotonic: Seconds, for how long a build is shared.
    """

    def __init__(
        self,
        store: TimelineStore,
        settings: TimelineSettings,
        admission: CandidateAdmission,
        refreshes: RefreshCounter,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._admission = admission
        self._refresh_counter = refreshes
        self._settings = settings
        self._clock = clock
        self._random = Random()
        self._flights: SingleFlight[RankedTimeline] = SingleFlight()
        self._recent: RecentResults[RankedTimeline] = RecentResults(
            SHARE_SECONDS, MAX_SHARED_BYTES, monotonic
        )
        self._refreshes: dict[bytes, asyncio.Task[None]] = {}
        self._writes: set[asyncio.Task[bool]] = set()

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

    async def latest(self, request: BuildRequest) -> tuple[RankedTimeline, CacheStatus]:
        """The latest ranked timeline of a key, for a first page: stored, or built now.

        Raises:
            TooManyRequests: Too many candidates are being ranked.
            DeadlineExpired: Not even the heuristic fits into the time that is left.
        """
        if not request.query.cache_policy.reads:
            return await self._build_in_time(request), UNREAD_TIMELINE.cache
        timeline = await self._store.latest(request.key, request.query.score_by)
        if timeline is None or not _is_by_current_ranker(request, timeline):
            return await self._build_in_time(request), MISSING_TIMELINE.cache
        stale_ttl, beta = self._settings.stale_ttl, self._settings.early_refresh
        fresh = freshness(timeline, self._clock(), stale_ttl, beta, 1.0 - self._random.random())
        answer = STORED_TIMELINES[fresh]
        if answer.step is Step.MODEL:
            return await self._build_in_time(request), answer.cache
        # A timeline that is older than this server's load of the catalog: its late posts are unknown.
        # Precomputed timelines (cost 0) are too many to refresh; NewerPosts finds their late posts.
        restarted = timeline.read_at < request.state.snapshot.loaded_at and timeline.cost > 0
        why = answer.refresh or ("restart" if restarted else "")
        if why:
            self.refresh_in_background(request, why)
        return timeline, answer.cache

    def refresh_in_background(self, request: BuildRequest, why: str) -> None:
        """Starts building the next timeline of a key while the caller is served another.

        Does nothing if the key is being refreshed, if MAX_REFRESHES are running, or if the call's policy
        stores nothing.

        Args:
            request: What to build; the deadline of its call does not apply.
            why: A reason that RefreshCounter knows.
        """
        if (
            not request.query.cache_policy.writes
            or request.key in self._refreshes
            or len(self._refreshes) >= MAX_REFRESHES
        ):
            return
        self._refresh_counter.refreshed(why)
        task = asyncio.create_task(self._refresh(request), name="timeline-refresh")
        self._refreshes[request.key] = task
        log_task_failure(task, "timeline refresh failed")
        # A callback, since a task that is cancelled before its first turn never runs its own cleanup.
        task.add_done_callback(lambda _: self._refreshes.pop(request.key))

    async def aclose(self) -> None:
        """Cancels background refreshes and writes."""
        tasks = [*self._refreshes.values(), *self._writes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _build_in_time(self, request: BuildRequest) -> RankedTimeline:
        """Builds a timeline, by the heuristic if the model cannot do it in time."""
        try:
            async with asyncio.timeout_at(request.query.score_by):
                if request.query.cache_policy.writes:
                    return await self._build_shared(request)
                return await self._build(request)
        except TimeoutError as error:
            if expired(request.query.deadline):
                raise DeadlineExpired from error
            if _flight(request) not in self._flights:  # no other caller waits for this build
                self.refresh_in_background(request, "degraded")
            return self._fall_back(request, DegradedReason.DEADLINE)

    async def _build_shared(self, request: BuildRequest) -> RankedTimeline:
        """Builds a timeline, or joins the build of another caller with the same key, policy and model."""
        flight = _flight(request)
        if request.query.cache_policy.reads:
            recent = self._recent.find(flight)
            if recent is not None and self._is_fresh(recent):
                await self._store_in_time(request, recent)  # the store is slow, or lost it
                return recent
        while True:
            joined = flight in self._flights
            timeline = await self._flights.run(flight, lambda: self._build(request))
            if not joined or timeline.degraded_reason is not DegradedReason.DEADLINE:
                return timeline
            # The caller who began this build had an earlier deadline. The first of the waiting callers begins
            # another build, and the rest join it.

    async def _build(self, request: BuildRequest) -> RankedTimeline:
        """Ranks the feed of a user, and stores the timeline before a page token can name it."""
        try:
            with self._admission.admit_rows(request.ranker.max_candidates(request.state.snapshot)):
                timeline = await request.ranker.rank(
                    request.state, request.query.user_id, request.query.include_seen, request.query.score_by
                )
        except ScoringFailed as failure:
            fallback = fallback_for(failure)
            if fallback.model_needs_time:
                self.refresh_in_background(request, "degraded")
            return self._fall_back(request, fallback.reason)
        if request.query.cache_policy.writes and request.key in self._refreshes:
            self._refreshes[request.key].cancel()  # it began earlier and would replace this timeline
        await self._store_in_time(request, timeline)
        if request.query.cache_policy.reads:
            self._recent.add(_flight(request), timeline, timeline_bytes(timeline))
        return timeline

    async def _refresh(self, request: BuildRequest) -> None:
        try:
            timeline = await request.ranker.rank(
                request.state, request.query.user_id, request.query.include_seen, None
            )
        except ScoringFailed:
            return  # the stored timeline stays the latest
        await self._store.put_latest(request.key, timeline)

    def _fall_back(self, request: BuildRequest, reason: DegradedReason) -> RankedTimeline:
        """The heuristic's timeline. Callers with one key share it for SHARE_SECONDS: they may be many."""
        shared_key = b"%b %b" % (request.key, reason.value.encode())
        recent = self._recent.find(shared_key)
        if recent is not None and not recent.is_from_the_future(self._clock()):
            return recent
        timeline = request.ranker.rank_by_heuristic(
            request.state.snapshot, request.query.user_id, request.query.include_seen, reason
        )
        self._recent.add(shared_key, timeline, timeline_bytes(timeline))
        # The caller has no time to wait for the write. It is usually done before the token comes back.
        self._start_write(self._store.put(request.key, timeline))
        return timeline

    async def _store_in_time(self, request: BuildRequest, timeline: RankedTimeline) -> None:
        """Stores a timeline before its token is given out, as far as the deadline allows it."""
        put = self._store.put_latest if request.query.cache_policy.writes else self._store.put
        left = request.query.score_by - asyncio.get_running_loop().time()
        # Half of the time: a finished timeline must not lose against the timeout to the fallback.
        await asyncio.wait((self._start_write(put(request.key, timeline)),), timeout=max(left / 2, 0.0))

    def _start_write(self, write: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        """Runs a write to its end, also if no caller waits for it."""
        task = asyncio.create_task(write)
        log_task_failure(task, "timeline not stored")
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task

    def _is_fresh(self, timeline: RankedTimeline) -> bool:
        now = self._clock()
        return now < timeline.fresh_until and not timeline.is_from_the_future(now)


def _is_by_current_ranker(request: BuildRequest, timeline: RankedTimeline) -> bool:
    """Whether the ranker of a timeline is the one that would rank it now; True while no model is loaded."""
    active = request.state.active
    if active is None:
        return True
    expected = active.version if active.user_row(request.query.user_id) else ""
    return timeline.model_version == expected


def _flight(request: BuildRequest) -> bytes:
    """The key of a shared build. It holds the policy: a call that does not read joins no earlier build."""
    model = request.state.active.version if request.state.active else ""
    return b"%b %b %b" % (request.key, request.query.cache_policy.value.encode(), model.encode())
