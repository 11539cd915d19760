"""Writes that nobody waits for: a bounded queue, emptied a batch at a time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

MAX_QUEUED_BYTES = 16 << 20
MAX_BATCH = 128
MAX_BATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Write:
    """A value to store, or None to delete the key."""

    key: bytes
    value: bytes | None

    @property
    def size(self) -> int:
        """Bytes that it takes in the queue, roughly."""
        return len(self.key) + len(self.value or b"")


Send = Callable[[list[Write]], Awaitable[None]]


class WriteQueue:
    """Sends writes in the order they came, by one task that lives while there are any."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._queued: deque[Write] = deque()
        self._queued_bytes = 0
        self._sending: asyncio.Task[None] | None = None

    def offer(self, write: Write) -> bool:
        """Queues a write; False if there is too much in the queue."""
        if self._queued_bytes + write.size > MAX_QUEUED_BYTES:
            return False
        self._queued.append(write)
        self._queued_bytes += write.size
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._run())
        return True

    async def aclose(self) -> None:
        """Ends the sending; what is queued is lost."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
        self._queued.clear()
        self._queued_bytes = 0

    async def _run(self) -> None:
        while batch := self._take():
            await self._send(batch)

    def _take(self) -> list[Write]:
        batch: list[Write] = []
        room = MAX_BATCH_BYTES
        while self._queued and len(batch) < MAX_BATCH and (not batch or self._queued[0].size <= room):
            batch.append(self._queued.popleft())
            room -= batch[-1].size
        self._queued_bytes -= sum(write.size for write in batch)
        return batch
