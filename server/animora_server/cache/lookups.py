"""Look-ups that share round trips: those that come while one runs go together in the next."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

MAX_KEYS = 256
MAX_BYTES = 1 << 20

# The values of some keys, None for those there are none of; or None if there was no answer.
Fetch = Callable[[list[bytes]], Awaitable[list[bytes | None] | None]]


class Absent(StrEnum):
    """Why a look-up has no value."""

    MISS = "miss"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, eq=False, slots=True)
class _LookUp:
    key: bytes
    size: int
    reply: asyncio.Future[bytes | Absent]

    def settle(self, reply: bytes | Absent) -> None:
        """Answers, unless the caller was answered or has gone."""
        if not self.reply.done():
            self.reply.set_result(reply)


class LookUps:
    """Gathers look-ups into round trips, one at a time, without a timer.

    Each look-up has a future of its own: a caller that is cancelled, or has waited for too long, leaves the
    round trip to the others.
    """

    def __init__(self, fetch: Fetch, timeout: float) -> None:
        self._fetch = fetch
        self._timeout = timeout
        self._waiting: deque[_LookUp] = deque()
        self._rounds: asyncio.Task[None] | None = None

    async def find(self, key: bytes, size: int) -> bytes | Absent:
        """The value of a key, or why there is none, after `timeout` seconds at the latest.

        Args:
            key: The key.
            size: Bytes that the value is expected to have.
        """
        loop = asyncio.get_running_loop()
        look_up = _LookUp(key, size, loop.create_future())
        self._waiting.append(look_up)
        if self._rounds is None or self._rounds.done():
            self._rounds = loop.create_task(self._run())
        # A bare timer: asyncio.timeout costs twice as much, and would cancel the caller to wake it.
        expiry = loop.call_later(self._timeout, look_up.settle, Absent.ERROR)
        try:
            return await look_up.reply
        finally:
            expiry.cancel()

    async def aclose(self) -> None:
        """Ends the round trip that runs; every caller gets an answer at once."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.wait([self._rounds])
        while self._waiting:
            self._waiting.popleft().settle(Absent.SKIPPED)

    async def _run(self) -> None:
        while batch := self._take():
            try:
                values = await self._fetch([look_up.key for look_up in batch])
                if values is not None:
                    for look_up, value in zip(batch, values, strict=True):
                        look_up.settle(Absent.MISS if value is None else value)
            finally:
                for look_up in batch:
                    look_up.settle(Absent.ERROR)

    def _take(self) -> list[_LookUp]:
        """The next round trip's look-ups, in order; empty if nobody waits any more."""
        batch: list[_LookUp] = []
        room = MAX_BYTES
        while self._waiting and len(batch) < MAX_KEYS and (not batch or self._waiting[0].size <= room):
            look_up = self._waiting.popleft()
            if not look_up.reply.done():
                batch.append(look_up)
                room -= look_up.size
        return batch
