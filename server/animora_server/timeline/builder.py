"""Builds ranked timelines: single-flight for a key, a deadline for each caller, background refreshes."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from animora_server.background import log_task_failure
from animora_server.errors import DeadlineExpired, ScoringFailed
from animora_server.fast_dataclass import fast_dataclass
from animora_server.scoring.serving_state import ServingState
from animora_server.scoring.single_flight import SingleFlight
from animora_server.scoring.transforms import degraded_reason, expired
from animora_server.timeline.feed_ranker import FeedKey, FeedRanker
from animora_server.timeline.protocols import CandidateAdmission, RefreshCounter, TimelineStore
from animora_server.types import CachePolicy, DegradedReason, RankedTimeline

Value = TypeVar("Value")

MAX_REFRESHES = 32  # concurrent background refreshes; beyond it a timeline is served a little longer
SHARE_SECONDS = 1.0  # for which a built timeline is given to callers who do not find it in the store
MAX_REMEMBERED = 256  # timelines in each of the two memories
# With these reasons the model could build the timeline if it had more time.
RETRYABLE_REASONS = (DegradedReason.DEADLINE, DegradedReason.OVERLOADED)


@fast_dataclass
class BuildRequest:
    """A caller's request for the ranked timeline of a first page.

    Attributes:
        key: The key in the store.
        feed_key: Whose feed.
        policy: How to use the store.
        deadline: When the caller stops waiting, on the event loop's clock.
        score_by: Until when the model's scores are waited for, on the same clock.
        began: When the caller began to look for the timeline, on the same clock.
    """

    key: bytes
    feed_key: FeedKey
    policy: CachePolicy
    deadline: float
    score_by: float
    began: float


class TimelineBuilder:
    """Builds ranked timelines and stores them.

    Args:
        store: Where built timelines are stored.
        ranker: Ranks the feed.
        admission: Bounds the candidates that are ranked at once.
        refreshes: Counts background refreshes.
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: TimelineStore,
        ranker: FeedRanker,
        admission: CandidateAdmission,
        refreshes: RefreshCounter,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._ranker = ranker
        self._admission = admission
        self._refresh_counter = refreshes
        self._clock = clock
        self._flights: SingleFlight[RankedTimeline] = SingleFlight()
        self._recent: dict[bytes, tuple[float, RankedTimeline]] = {}  # with its end on the event loop's clock
        self._refreshes: dict[bytes, asyncio.Task[None]] = {}
        self._fallbacks: dict[bytes, RankedTimeline] = {}
        self._writes: set[asyncio.Task[bool]] = set()

    async def build(self, state: ServingState, request: BuildRequest) -> RankedTimeline:
        """Builds a ranked timeline, by the heuristic if the model cannot do it in time.

        Raises:
            TooManyRequests: Too many candidates are being ranked.
            DeadlineExpired: Not even the heuristic fits into the time that is left.
        """
        try:
            async with asyncio.timeout_at(request.score_by):
                if request.policy.writes:
                    return await self._build_shared(state, request)
                return await self._build(state, request)
        except TimeoutError as error:
            if expired(request.deadline):
                raise DeadlineExpired from error
            if _flight(state, request) not in self._flights:  # no other caller waits for this build
                self.refresh_in_background(state, request, "degraded")
            return self._fall_back(state, request, DegradedReason.DEADLINE)

    def refresh_in_background(self, state: ServingState, request: BuildRequest, why: str) -> None:
        """Starts building the next timeline of a key while the caller is served another.

        Does nothing if the key is being refreshed, if MAX_REFRESHES are running, or if the call's policy
        stores nothing.

        Args:
            state: The catalog and the models.
            request: The request to build for; its deadlines do not apply.
            why: A reason that RefreshCounter knows.
        """
        if (
            not request.policy.writes
            or request.key in self._refreshes
            or len(self._refreshes) >= MAX_REFRESHES
        ):
            return
        self._refresh_counter.refreshed(why)
        task = asyncio.create_task(self._refresh(state, request), name="timeline-refresh")
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

    async def _build_shared(self, state: ServingState, request: BuildRequest) -> RankedTimeline:
        """Builds a timeline, or joins the build of another caller with the same key, policy and model."""
        flight = _flight(state, request)
        ended_at, recent = self._recent.get(flight, (float("-inf"), None))
        if recent is not None and ended_at >= request.began:
            return recent  # it was built after this caller's look-up began
        if (
            recent is not None
            and request.policy.reads
            and ended_at >= request.began - SHARE_SECONDS
            and self._is_fresh(recent)
        ):
            await self._store_in_time(request, recent)  # the look-up missed it: the store is slow or lost it
            return recent

        async def build() -> RankedTimeline:
            timeline = await self._build(state, request)
            if timeline.degraded_reason is None:
                now = asyncio.get_running_loop().time()
                _remember(self._recent, flight, (now, timeline))  # for callers whose look-up misses it
            return timeline

        while True:
            joined = flight in self._flights
            timeline = await self._flights.run(flight, build)
            if not joined or timeline.degraded_reason is not DegradedReason.DEADLINE:
                return timeline
            # The caller who began this build had an earlier deadline. The first of the waiting callers begins
            # another build, and the rest join it.

    def _is_fresh(self, timeline: RankedTimeline) -> bool:
        now = self._clock()
        return now < timeline.fresh_until and not timeline.is_from_the_future(now)

    async def _store_in_time(self, request: BuildRequest, timeline: RankedTimeline) -> None:
        """Stores a timeline before its token is given out, as far as the deadline allows it."""
        put = self._store.put_latest if request.policy.writes else self._store.put
        left = request.score_by - asyncio.get_running_loop().time()
        # Half of the time: a finished timeline must not lose against the timeout to the fallback.
        await asyncio.wait((self._start_write(put(request.key, timeline)),), timeout=max(left / 2, 0.0))

    async def _build(self, state: ServingState, request: BuildRequest) -> RankedTimeline:
        try:
            with self._admission.admit_rows(self._ranker.max_candidates(state.snapshot)):
                timeline = await self._ranker.rank(state, request.feed_key, request.score_by)
        except ScoringFailed as failure:
            reason = degraded_reason(failure)
            if reason in RETRYABLE_REASONS:
                self.refresh_in_background(state, request, "degraded")
            return self._fall_back(state, request, reason)
        if request.policy.writes and request.key in self._refreshes:
            self._refreshes[request.key].cancel()  # it began earlier and would replace this timeline
        await self._store_in_time(request, timeline)
        return timeline

    async def _refresh(self, state: ServingState, request: BuildRequest) -> None:
        try:
            timeline = await self._ranker.rank(state, request.feed_key, None)
        except ScoringFailed:
            return  # the stored timeline stays the latest
        await self._store.put_latest(request.key, timeline)

    def _fall_back(
        self, state: ServingState, request: BuildRequest, reason: DegradedReason
    ) -> RankedTimeline:
        """The heuristic's timeline. Callers with one key share it for SHARE_SECONDS: they may be many."""
        known = self._fallbacks.get(request.key)
        if (
            known is not None
            and known.degraded_reason is reason
            and 0 <= self._clock() - known.made_at < SHARE_SECONDS  # the clock may be set back
        ):
            return known
        timeline = self._ranker.rank_by_heuristic(state.snapshot, request.feed_key, reason)
        _remember(self._fallbacks, request.key, timeline)
        # The caller has no time to wait for the write. It is usually done before the token comes back.
        self._start_write(self._store.put(request.key, timeline))
        return timeline

    def _start_write(self, write: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        """Runs a write to its end, also if no caller waits for it."""
        task = asyncio.create_task(write)
        log_task_failure(task, "timeline not stored")
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task


def _remember(memory: dict[bytes, Value], key: bytes, value: Value) -> None:
    """Adds a value to a memory of MAX_REMEMBERED values; a full memory is emptied first."""
    if len(memory) >= MAX_REMEMBERED:
        memory.clear()
    memory[key] = value


def _flight(state: ServingState, request: BuildRequest) -> bytes:
    """The key of a shared build. It holds the policy: a call that does not read joins no earlier build."""
    model = state.active.version if state.active else ""
    return b"%b %b %b" % (request.key, request.policy.value.encode(), model.encode())
