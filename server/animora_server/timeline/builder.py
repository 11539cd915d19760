"""Where new lists come from: made once for all who want the same, in time for each, and ahead of need."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from animora_server.background import log_task_failure
from animora_server.errors import DeadlineExpired, ScoringFailed
from animora_server.fast_dataclass import fast_dataclass
from animora_server.scoring.protocols import ServingState
from animora_server.scoring.single_flight import SingleFlight
from animora_server.scoring.transforms import degraded_reason, expired
from animora_server.timeline.feed_ranker import FeedKey, FeedRanker
from animora_server.timeline.protocols import RefreshCounter, TimelineStore, WorkGate
from animora_server.types import CachePolicy, DegradedReason, RankedTimeline

Remembered = TypeVar("Remembered")

MAX_RENEWALS = 32  # at once; further lists are served a little longer
SHARE_SECONDS = 1.0  # seconds for which those who ask for the same get the same, where they do not find it
MAX_REMEMBERED = 256  # lists of each kind
# The model could make the list, with more time.
RETRYABLE_REASONS = (DegradedReason.DEADLINE, DegradedReason.OVERLOADED)


@fast_dataclass
class BuildRequest:
    """A list that someone wants to see the first page of.

    Attributes:
        key: Names the lists that would do.
        feed_key: Whose feed.
        policy: How to use the store.
        deadline: When the caller stops waiting, on the event loop's clock.
        score_by: When the model's scores must be there, on the same clock.
        began: When the caller began to look for it, on the same clock.
    """

    key: bytes
    feed_key: FeedKey
    policy: CachePolicy
    deadline: float
    score_by: float
    began: float


class TimelineBuilder:
    """Makes lists and keeps them.

    Args:
        store: Where they are kept.
        ranker: Ranks them.
        admission: Bounds how many candidates are ranked at once.
        refreshes: Counts renewals.
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: TimelineStore,
        ranker: FeedRanker,
        admission: WorkGate,
        refreshes: RefreshCounter,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._ranker = ranker
        self._admission = admission
        self._refreshes = refreshes
        self._clock = clock
        self._flights: SingleFlight[RankedTimeline] = SingleFlight()
        self._made: dict[bytes, tuple[float, RankedTimeline]] = {}  # and when, on the event loop's clock
        self._renewals: dict[bytes, asyncio.Task[None]] = {}
        self._fallbacks: dict[bytes, RankedTimeline] = {}
        self._keeping: set[asyncio.Task[bool]] = set()

    async def make(self, state: ServingState, request: BuildRequest) -> RankedTimeline:
        """A new list, or one by the heuristic where the model cannot make it in time.

        Raises:
            Refused: Too much is being ranked.
            DeadlineExpired: Not even the heuristic fits into the time that is left.
        """
        try:
            async with asyncio.timeout_at(request.score_by):
                if request.policy.writes:
                    return await self._make_shared(state, request)
                return await self._make(state, request)
        except TimeoutError as error:
            if expired(request.deadline):
                raise DeadlineExpired from error
            if _flight(state, request) not in self._flights:  # nobody else waits for the list
                self.renew(state, request, "degraded")
            return self._fall_back(state, request, DegradedReason.DEADLINE)

    def renew(self, state: ServingState, request: BuildRequest, why: str) -> None:
        """Makes the next list while another is served, unless that is being done or too much is.

        Nothing is made for a call that keeps nothing.

        Args:
            state: The catalog and the models.
            request: The list.
            why: A reason that the counter of renewals knows.
        """
        if not request.policy.writes or request.key in self._renewals or len(self._renewals) >= MAX_RENEWALS:
            return
        self._refreshes.refreshed(why)
        task = asyncio.create_task(self._run_renewal(state, request), name="timeline-renewal")
        self._renewals[request.key] = task
        log_task_failure(task, "a timeline's renewal failed")
        # Not by the task itself: one that is cancelled before its first turn never runs.
        task.add_done_callback(lambda _: self._renewals.pop(request.key))

    async def aclose(self) -> None:
        """Ends what goes on without a caller."""
        tasks = [*self._renewals.values(), *self._keeping]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make_shared(self, state: ServingState, request: BuildRequest) -> RankedTimeline:
        """Makes a list, or shares in one that is being made by the same model."""
        flight = _flight(state, request)
        ended_at, made = self._made.get(flight, (float("-inf"), None))
        if made is not None and ended_at >= request.began:
            return made  # it was not there yet when this caller looked
        was_looked_for = request.policy.reads
        if (
            made is not None
            and was_looked_for
            and ended_at >= request.began - SHARE_SECONDS
            and self._is_fresh(made)
        ):
            await self._keep_in_time(request, made)  # it was not found: the store is slow, or has lost it
            return made

        async def make() -> RankedTimeline:
            snapshot = await self._make(state, request)
            if snapshot.degraded_reason is None:
                now = asyncio.get_running_loop().time()
                _remember(self._made, flight, (now, snapshot))  # for who did not find it and asks after this
            return snapshot

        while True:
            joined = flight in self._flights
            snapshot = await self._flights.run(flight, make)
            if not joined or snapshot.degraded_reason is not DegradedReason.DEADLINE:
                return snapshot
            # Who began it was in more of a hurry than this caller may be. Whoever comes first begins anew,
            # the others join again.

    def _is_fresh(self, snapshot: RankedTimeline) -> bool:
        now = self._clock()
        return now < snapshot.fresh_until and not snapshot.is_from_the_future(now)

    async def _keep_in_time(self, request: BuildRequest, snapshot: RankedTimeline) -> None:
        """Has a list kept before its token is given out, where there is the time for that."""
        keep = self._store.make_latest if request.policy.writes else self._store.keep
        left = request.score_by - asyncio.get_running_loop().time()
        # Half of it: a list that is ready must not be given up for one by the heuristic.
        await asyncio.wait((self._keep(keep(request.key, snapshot)),), timeout=max(left / 2, 0.0))

    async def _make(self, state: ServingState, request: BuildRequest) -> RankedTimeline:
        try:
            with self._admission.work(self._ranker.most_candidates(state.snapshot)):
                snapshot = await self._ranker.rank(state, request.feed_key, request.score_by)
        except ScoringFailed as failure:
            reason = degraded_reason(failure)
            if reason in RETRYABLE_REASONS:
                self.renew(state, request, "degraded")  # so that the next who asks finds it
            return self._fall_back(state, request, reason)
        if request.policy.writes and request.key in self._renewals:
            self._renewals[request.key].cancel()  # it would replace this list by one begun before
        await self._keep_in_time(request, snapshot)
        return snapshot

    async def _run_renewal(self, state: ServingState, request: BuildRequest) -> None:
        try:
            snapshot = await self._ranker.rank(state, request.feed_key, None)
        except ScoringFailed:
            return  # what is served now is served on
        await self._store.make_latest(request.key, snapshot)

    def _fall_back(
        self, state: ServingState, request: BuildRequest, reason: DegradedReason
    ) -> RankedTimeline:
        """The list by the heuristic; one for all who ask within a moment, for they may be many."""
        known = self._fallbacks.get(request.key)
        if (
            known is not None
            and known.degraded_reason is reason
            and 0 <= self._clock() - known.made_at < SHARE_SECONDS  # the clock may be set back
        ):
            return known
        snapshot = self._ranker.rank_degraded(state.snapshot, request.feed_key, reason)
        _remember(self._fallbacks, request.key, snapshot)
        # No time to wait until it is kept; most often it is by the time that its token comes back.
        self._keep(self._store.keep(request.key, snapshot))
        return snapshot

    def _keep(self, keep: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        """Has a list kept, whether or not someone waits for it."""
        keeping = asyncio.create_task(keep)
        log_task_failure(keeping, "a timeline could not be kept")
        self._keeping.add(keeping)
        keeping.add_done_callback(self._keeping.discard)
        return keeping


def _remember(memory: dict[bytes, Remembered], name: bytes, what: Remembered) -> None:
    """Keeps something for a moment's use: what is older goes when there is too much."""
    if len(memory) >= MAX_REMEMBERED:
        memory.clear()
    memory[name] = what


def _flight(state: ServingState, request: BuildRequest) -> bytes:
    """Names what is made together: by one model, and not for who wants a new list what was begun before."""
    model = state.active.version if state.active else ""
    return b"%b %b %b" % (request.key, request.policy.value.encode(), model.encode())
