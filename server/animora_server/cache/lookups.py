"""Batches look-ups: those that arrive during a round trip share the next one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from animora_server.background import log_task_failure
from animora_server.batching import DeadlineTimer

MAX_KEYS = 256
MAX_BYTES = 1 << 20

# The value of each key, None for a missing key; or None if there was no answer.
Fetch = Callable[[list[bytes]], Awaitable[list[bytes | None] | None]]


class NoAnswer(StrEnum):
    """Why a look-up has no answer."""

    ERROR = "error"
    SKIPPED = "skipped"


Found = list[bytes | None] | NoAnswer


class UnreadableValue(ValueError):
    """The stored value is damaged, forged, or belongs to another key."""


@dataclass(eq=False, slots=True)
class _Lookup:
    keys: Sequence[bytes]
    size: int
    deadline: float
    reply: asyncio.Future[Found]

    def expire(self) -> None:
        """Ends the look-up at its deadline."""
        self.settle(NoAnswer.ERROR)

    def settle(self, reply: Found) -> None:
        """Sets the reply, unless it is set or cancelled."""
        if not self.reply.done():
            self.reply.set_result(reply)


class LookupBatcher:
    """Batches look-ups into round trips, one at a time, without waiting for more look-ups.

    Each look-up has its own future: a caller that is cancelled or times out does not end the round trip.

    Args:
        fetch: Makes a round trip.
        timeout: Seconds for each look-up.
    """

    def __init__(self, fetch: Fetch, timeout: float) -> None:
        self._fetch = fetch
        self._timeout = timeout
        self._queue: deque[_Lookup] = deque()
        self._round: list[_Lookup] = []
        self._rounds: asyncio.Task[None] | None = None
        self._deadline_timer = DeadlineTimer(self._unanswered)

    def lookup_deadline(self) -> float:
        """The deadline of a look-up that begins now, on the event loop's clock."""
        return asyncio.get_running_loop().time() + self._timeout

    def find(self, keys: Sequence[bytes], size: int, until: float | None = None) -> "asyncio.Future[Found]":
        """Looks up keys. The future gives the value of each key, None for a missing one, or NoAnswer.

        Args:
            keys: At most MAX_KEYS; all in one round trip.
            size: Expected size of all values in bytes.
            until: The deadline, on the event loop's clock; default `lookup_deadline()`.
        """
        loop = asyncio.get_running_loop()
        latest = self.lookup_deadline() if until is None else until
        lookup = _Lookup(keys, size, latest, loop.create_future())
        self._deadline_timer.watch(latest)
        self._queue.append(lookup)
        if self._rounds is None or self._rounds.done():
            self._rounds = loop.create_task(self._run())
            log_task_failure(self._rounds, "a round of cache look-ups failed")
        return lookup.reply

    async def aclose(self) -> None:
        """Cancels the round trip; all waiting look-ups end at once."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.wait([self._rounds])
        while self._queue:
            self._queue.popleft().settle(NoAnswer.SKIPPED)

    async def _run(self) -> None:
        while self._queue:
            batch = self._round = self._take()
            if not batch:
                return  # all callers have left
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
        return (lookup for lookup in (*self._round, *self._queue) if not lookup.reply.done())

    def _take(self) -> list[_Lookup]:
        """The look-ups of the next round trip, in order; empty if all callers have left."""
        batch: list[_Lookup] = []
        keys, room = MAX_KEYS, MAX_BYTES
        while self._queue:
            lookup = self._queue[0]
            if batch and (len(lookup.keys) > keys or lookup.size > room):
                break
            self._queue.popleft()
            if not lookup.reply.done():
                batch.append(lookup)
                keys -= len(lookup.keys)
                room -= lookup.size
        return batch
