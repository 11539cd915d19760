"""Decodes a binary COPY while it is received: one part in a worker thread, the next from the network."""

import asyncio
from collections.abc import Callable

from animora_server.errors import StoreError
from animora_server.store.binary import TRAILER, without_header

PART_BYTES = 4 << 20  # enough to be worth a thread, and little compared with the catalog


class CopyDecoder:
    """Collects bytes into parts and feeds them, one after the other, to a decoder in a worker thread.

    Args:
        feed: Decodes the whole rows in some bytes and returns the rest.
    """

    def __init__(self, feed: Callable[[bytes], bytes]) -> None:
        self._feed = feed
        self._received: list[bytes] = []
        self._size = 0
        self._rest: bytes | None = None  # None until the header is removed
        self._decoding: asyncio.Task[None] | None = None

    async def put(self, data: bytes) -> None:
        """Adds bytes. Waits only if a part is full and the previous one is not decoded yet.

        Raises:
            StoreError: The decoder rejected the previous part.
        """
        self._received.append(data)
        self._size += len(data)
        if self._size >= PART_BYTES:
            await self._start_decoding()

    async def finish(self) -> None:
        """Decodes the last part. Raises StoreError if the decoder rejects it or the COPY is incomplete."""
        await self._start_decoding()
        await self._wait_for_decoding()
        if self._rest != TRAILER:
            raise StoreError("a view gives a null, or a type, that it must not give")

    async def wait_for_thread(self) -> None:
        """Waits for the thread and ignores its error. No thread may write after the reading has ended."""
        if self._decoding is not None:
            await asyncio.wait((self._decoding,))
            self._decoding.exception()  # retrieved; the reading has already failed with another error

    async def _wait_for_decoding(self) -> None:
        if self._decoding is not None:
            # Unlike awaiting the task, this does not cancel it when the caller is cancelled.
            await asyncio.wait((self._decoding,))
            self._decoding.result()

    async def _start_decoding(self) -> None:
        await self._wait_for_decoding()
        received, self._received, self._size = self._received, [], 0
        self._decoding = asyncio.create_task(asyncio.to_thread(self._decode, received))

    def _decode(self, received: list[bytes]) -> None:
        data = b"".join(received if self._rest is None else (self._rest, *received))
        self._rest = self._feed(without_header(data) if self._rest is None else data)
