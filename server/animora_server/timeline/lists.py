"""Where lists come from: found, made once however many ask, and renewed before anyone has to wait."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from animora_server.errors import DeadlineExceeded, SnapshotGone
from animora_server.ranker.protocols import Pin
from animora_server.ranker.relevance import RESERVE, expired
from animora_server.ranker.single_flight import SingleFlight
from animora_server.settings import TimelineSettings
from animora_server.timeline.feed_ranker import Audience, FeedRanker
from animora_server.timeline.protocols import RefreshCounter, TimelineStore
from animora_server.timeline.renewal import Freshness, freshness
from animora_server.types import CachePolicy, CacheStatus, DegradedReason, TimelineSnapshot

MAX_RENEWALS = 32  # at once; further lists are served stale a little longer
# A list is made for all who want it, and kept: the deadline of whoever asked first does not bound it.
MAKING_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class FirstPage:
    """A caller who wants a first page.

    Attributes:
        key: Names the lists that would do.
        audience: Whose feed.
        policy: How to use the store.
        deadline: When the caller stops waiting, on the event loop's clock.
    """

    key: bytes
    audience: Audience
    policy: CachePolicy
    deadline: float


class Lists:
    """Finds lists in a store and makes those that are not there.

    Args:
        store: What was made before.
        ranker: Makes lists.
        settings: How long a list is served.
        refreshes: Counts renewals.
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: TimelineStore,
        ranker: FeedRanker,
        settings: TimelineSettings,
        refreshes: RefreshCounter,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._ranker = ranker
        self._settings = settings
        self._refreshes = refreshes
        self._clock = clock
        self._random = Random()
        self._flights: SingleFlight[TimelineSnapshot] = SingleFlight()
        self._renewals: dict[bytes, asyncio.Task[None]] = {}
        self._keeping: set[asyncio.Task[bool]] = set()

    async def pinned(self, key: bytes, snapshot_id: bytes) -> TimelineSnapshot:
        """The list that a page token names.

        Raises:
            SnapshotGone: It is no longer there.
        """
        snapshot = await self._store.pinned(key, snapshot_id)
        if snapshot is None:
            raise SnapshotGone
        return snapshot

    async def first(self, pin: Pin, wanted: FirstPage) -> tuple[TimelineSnapshot, CacheStatus]:
        """The list to cut a first page from.

        Raises:
            DeadlineExceeded: Not even the heuristic fits into the time that is left.
        """
        if wanted.policy.reads:
            snapshot = await self._store.latest(wanted.key)
            if snapshot is not None and _is_current(pin, wanted.audience, snapshot):
                draw = 1.0 - self._random.random()
                match freshness(
                    snapshot, self._clock(), self._settings.stale_ttl, self._settings.early_refresh, draw
                ):
                    case Freshness.FRESH:
                        return snapshot, CacheStatus.HIT
                    case Freshness.DUE:
                        self._renew(pin, wanted, "early")
                        return snapshot, CacheStatus.HIT
                    case Freshness.STALE:
                        self._renew(pin, wanted, "stale")
                        return snapshot, CacheStatus.STALE
        status = CacheStatus.MISS if wanted.policy.reads else CacheStatus.BYPASS
        return await self._make_in_time(pin, wanted), status

    async def aclose(self) -> None:
        """Ends what goes on without a caller."""
        tasks = [*self._renewals.values(), *self._keeping]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make_in_time(self, pin: Pin, wanted: FirstPage) -> TimelineSnapshot:
        """A new list, or one by the heuristic alone where the deadline leaves no time for more."""
        try:
            async with asyncio.timeout_at(wanted.deadline - RESERVE):
                if not wanted.policy.writes:
                    return await self._make_private(pin, wanted)
                return await self._flights.run(
                    wanted.key, lambda: self._make(pin, wanted, _now() + MAKING_SECONDS)
                )
        except TimeoutError as error:
            if expired(wanted.deadline):
                raise DeadlineExceeded from error
            snapshot = self._ranker.rank_degraded(pin.snapshot, wanted.audience, DegradedReason.DEADLINE)
            # No time to wait until it is kept; most often it is by the time that its token comes back.
            keeping = asyncio.create_task(self._store.keep(wanted.key, snapshot))
            self._keeping.add(keeping)
            keeping.add_done_callback(self._keeping.discard)
            return snapshot

    async def _make(self, pin: Pin, wanted: FirstPage, deadline: float | None) -> TimelineSnapshot:
        """Makes a list for everyone, and keeps it."""
        snapshot = await self._ranker.rank(pin, wanted.audience, deadline)
        if snapshot.degraded_reason is None:
            await self._store.make_latest(wanted.key, snapshot)
        else:
            await self._store.keep(wanted.key, snapshot)
        return snapshot

    async def _make_private(self, pin: Pin, wanted: FirstPage) -> TimelineSnapshot:
        """Makes a list for one caller, and keeps it for its page tokens alone."""
        snapshot = await self._ranker.rank(pin, wanted.audience, wanted.deadline)
        await self._store.keep(wanted.key, snapshot)
        return snapshot

    def _renew(self, pin: Pin, wanted: FirstPage, why: str) -> None:
        """Makes the next list while this one is served, unless that is being done or too much is."""
        if wanted.key in self._renewals or len(self._renewals) >= MAX_RENEWALS:
            return
        self._refreshes.refreshed(why)
        task = asyncio.create_task(self._run_renewal(pin, wanted), name="timeline-renewal")
        self._renewals[wanted.key] = task

    async def _run_renewal(self, pin: Pin, wanted: FirstPage) -> None:
        try:
            await self._flights.run(wanted.key, lambda: self._make(pin, wanted, None))
        finally:
            del self._renewals[wanted.key]


def _is_current(pin: Pin, audience: Audience, snapshot: TimelineSnapshot) -> bool:
    """Whether a list was ranked by what would rank it now; while no model is loaded any list is better."""
    if pin.active is None:
        return True
    expected = pin.active.version if pin.active.user_row(audience.user_id) else ""
    return snapshot.model_version == expected


def _now() -> float:
    return asyncio.get_running_loop().time()
