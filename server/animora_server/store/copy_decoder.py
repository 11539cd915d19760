"""A binary COPY on its way to a decoder: one part is decoded while the next is received."""

import asyncio
from collections.abc import Callable

from animora_server.errors import StoreError
from animora_server.store.binary import TRAILER, without_header

# Enough to be worth a thread, and little beside the catalog.
PART_BYTES = 4 << 20


class CopyDecoder:
    """Gathers bytes into parts and feeds them, one after the other, to a decoder in a worker thread.

    Args:
        feed: Decodes the whole rows in some bytes, and returns what is left.
    """

    def __init__(self, feed: Callable[[bytes], bytes]) -> None:
        self._feed = feed
        self._received: list[bytes] = []
        self._size = 0
        self._rest: bytes | None = None  # None until the header was cut off
        self._decoding: asyncio.Task[None] | None = None

    async def put(self, data: bytes) -> None:
        """Takes some bytes; waits only if the part before is not decoded yet when the next is full.

        Raises:
            StoreError: The bytes are not what the decoder expects.
        """
        self._received.append(data)
        self._size += len(data)
        if self._size >= PART_BYTES:
            await self._start_decoding()

    async def finish(self) -> None:
        """Decodes what is left. Raises StoreError as put does."""
        await self._start_decoding()
        await self._wait_for_decoding()
        if self._rest != TRAILER:
            raise StoreError("a view gives a null, or a type, that it must not give")

    async def wait_for_thread(self) -> None:
        """Waits for the thread, whatever it comes to, so that none writes on after a reading has ended."""
        if self._decoding is not None:
            await asyncio.wait((self._decoding,))
            self._decoding.exception()  # raised already, or less telling than what ended the reading

    async def _wait_for_decoding(self) -> None:
        if self._decoding is not None:
            # Unlike awaiting the task, this does not cancel it.
            await asyncio.wait((self._decoding,))
            self._decoding.result()

    async def _start_decoding(self) -> None:
        await self._wait_for_decoding()
        received, self._received, self._size = self._received, [], 0
        self._decoding = asyncio.create_task(asyncio.to_thread(self._decode, received))

    def _decode(self, received: list[bytes]) -> None:
        data = b"".join(received if self._rest is None else (self._rest, *received))
        self._rest = self._feed(without_header(data) if self._rest is None else data)
