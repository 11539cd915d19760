"""Look-ups that share round trips: those that come while one runs go together in the next."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from animora_server.background import log_task_failure
from animora_server.batching import DeadlineTimer

MAX_KEYS = 256
MAX_BYTES = 1 << 20

# The values of some keys, None for those there are none of; or None if there was no answer.
Fetch = Callable[[list[bytes]], Awaitable[list[bytes | None] | None]]


class NoAnswer(StrEnum):
    """Why a look-up says nothing about its keys."""

    ERROR = "error"
    SKIPPED = "skipped"


Found = list[bytes | None] | NoAnswer


@dataclass(eq=False, slots=True)
class _Lookup:
    keys: Sequence[bytes]
    size: int
    deadline: float
    reply: asyncio.Future[Found]

    def expire(self) -> None:
        """Answers that there is no answer in time."""
        self.settle(NoAnswer.ERROR)

    def settle(self, reply: Found) -> None:
        """Answers, unless the caller was answered or has gone."""
        if not self.reply.done():
            self.reply.set_result(reply)


class LookupBatcher:
    """Gathers look-ups into round trips, one at a time, without a timer.

    Each look-up has a future of its own: a caller that is cancelled, or has waited for too long, leaves the
    round trip to the others.
    """

    def __init__(self, fetch: Fetch, timeout: float) -> None:
        self._fetch = fetch
        self._timeout = timeout
        self._waiting: deque[_Lookup] = deque()
        self._round: list[_Lookup] = []
        self._rounds: asyncio.Task[None] | None = None
        self._deadline_timer = DeadlineTimer(self._unanswered)

    def lookup_deadline(self) -> float:
        """When a look-up that begins now has its answer at the latest, on the event loop's clock."""
        return asyncio.get_running_loop().time() + self._timeout

    def find(self, keys: Sequence[bytes], size: int, until: float | None = None) -> "asyncio.Future[Found]":
        """The value of each key, or why there is no answer, to come.

        Args:
            keys: At most MAX_KEYS, looked up in one round trip.
            size: Bytes that the values are expected to have together.
            until: When at the latest, on the event loop's clock; as `until()` says, if not sooner.
        """
        loop = asyncio.get_running_loop()
        latest = self.lookup_deadline() if until is None else until
        lookup = _Lookup(keys, size, latest, loop.create_future())
        self._deadline_timer.watch(latest)
        self._waiting.append(lookup)
        if self._rounds is None or self._rounds.done():
            self._rounds = loop.create_task(self._run())
            log_task_failure(self._rounds, "a round of cache look-ups failed")
        return lookup.reply

    async def aclose(self) -> None:
        """Ends the round trip that runs; every caller gets an answer at once."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.wait([self._rounds])
        while self._waiting:
            self._waiting.popleft().settle(NoAnswer.SKIPPED)

    async def _run(self) -> None:
        while self._waiting:
            batch = self._round = self._take()
            if not batch:
                return  # nobody waits any more
            try:
                values = await self._fetch([key for lookup in batch for key in lookup.keys])
                if values is not None:
                    start = 0
                    for lookup in batch:
                        end = start + len(lookup.keys)
                        lookup.settle(values[start:end])
                        start = end
            finally:
                self._round = []
                for lookup in batch:
                    lookup.settle(NoAnswer.ERROR)

    def _unanswered(self) -> Iterator[_Lookup]:
        return (lookup for lookup in (*self._round, *self._waiting) if not lookup.reply.done())

    def _take(self) -> list[_Lookup]:
        """The next round trip's look-ups, in order; empty if nobody waits any more."""
        batch: list[_Lookup] = []
        keys, room = MAX_KEYS, MAX_BYTES
        while self._waiting:
            lookup = self._waiting[0]
            if batch and (len(lookup.keys) > keys or lookup.size > room):
                break
            self._waiting.popleft()
            if not lookup.reply.done():
                batch.append(lookup)
                keys -= len(lookup.keys)
                room -= lookup.size
        return batch
