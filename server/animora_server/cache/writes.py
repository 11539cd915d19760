"""A bounded queue of writes, sent in batches. Most callers do not wait for the outcome."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from animora_server.background import log_task_failure
from animora_server.fast_dataclass import fast_dataclass

MAX_QUEUED_BYTES = 16 << 20
MAX_BATCH = 128
MAX_BATCH_BYTES = 1 << 20


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
        room = MAX_BATCH_BYTES
        while self._queued and len(batch) < MAX_BATCH and (not batch or self._queued[0][0].size <= room):
            batch.append(self._queued.popleft())
            room -= batch[-1][0].size
        self._queued_bytes -= sum(write.size for write, _ in batch)
        return batch


def _resolve(outcome: Outcome | None, done: bool) -> None:
    """Resolves an outcome, unless it is resolved or cancelled."""
    if outcome is not None and not outcome.done():
        outcome.set_result(done)
