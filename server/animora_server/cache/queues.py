"""The queues before Redis: look-ups share round trips, writes are sent in batches; neither waits for more."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from animora_server.background import log_task_failure
from animora_server.batching import DeadlineTimer
from animora_server.fast_dataclass import fast_dataclass

MAX_LOOKUP_KEYS = 256  # of a round trip
MAX_LOOKUP_BYTES = 1 << 20  # of a round trip
MAX_WRITES = 128  # of a batch
MAX_WRITE_BYTES = 1 << 20  # of a batch
MAX_QUEUED_BYTES = 16 << 20  # of all queued writes

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
            keys: At most MAX_LOOKUP_KEYS; all in one round trip.
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
        keys, room = MAX_LOOKUP_KEYS, MAX_LOOKUP_BYTES
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


@fast_dataclass
class Write:
    """A value to store for `ttl_ms` milliseconds; a value of None deletes the key."""

    key: bytes
    value: bytes | None
    ttl_ms: int = 0

    @property
    def size(self) -> int:
        """Approximate size in the queue, in bytes."""
        return len(self.key) + len(self.value or b"")


# Sends a batch; returns for each write whether it was done.
Send = Callable[[list[Write]], Awaitable[list[bool]]]
Outcome = asyncio.Future[bool]


class WriteQueue:
    """Sends writes in order, by a task that ends when the queue is empty."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._queued: deque[tuple[Write, Outcome | None]] = deque()
        self._queued_bytes = 0
        self._sending: asyncio.Task[None] | None = None

    def offer(self, write: Write, outcome: Outcome | None = None) -> bool:
        """Queues a write. Returns False if the queue is full.

        Args:
            write: The write.
            outcome: Resolved with whether the write was done.
        """
        if self._queued_bytes + write.size > MAX_QUEUED_BYTES:
            return False
        self._queued.append((write, outcome))
        self._queued_bytes += write.size
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._run())
            log_task_failure(self._sending, "a batch of cache writes failed")
        return True

    async def aclose(self) -> None:
        """Cancels the sending; queued writes are lost."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
        for _, outcome in self._queued:
            _resolve(outcome, False)
        self._queued.clear()
        self._queued_bytes = 0

    async def _run(self) -> None:
        while batch := self._take():
            try:
                done = await self._send([write for write, _ in batch])
                for (_, outcome), stored in zip(batch, done, strict=True):
                    _resolve(outcome, stored)
            finally:
                for _, outcome in batch:
                    _resolve(outcome, False)

    def _take(self) -> list[tuple[Write, Outcome | None]]:
        batch: list[tuple[Write, Outcome | None]] = []
        room = MAX_WRITE_BYTES
        while self._queued and len(batch) < MAX_WRITES and (not batch or self._queued[0][0].size <= room):
            batch.append(self._queued.popleft())
            room -= batch[-1][0].size
        self._queued_bytes -= sum(write.size for write, _ in batch)
        return batch


def _resolve(outcome: Outcome | None, done: bool) -> None:
    """Resolves an outcome, unless it is resolved or cancelled."""
    if outcome is not None and not outcome.done():
        outcome.set_result(done)
