"""Streams rows out of PostgreSQL: a thread decodes one part of a COPY while the next one arrives."""

import asyncio
from typing import Protocol

import asyncpg

from animora_database.copy_format import without_header
from animora_database.views import ViewQuery

PART_BYTES = 4 << 20  # enough to be worth a thread, and little compared with a feed


class RowDecoder(Protocol):
    """Decodes the rows of a query; see `copy_format.FixedRows`."""

    query: ViewQuery

    def feed(self, data: bytes) -> bytes:
        """Decodes the whole rows in `data`; returns the rest."""
        ...

    def finish(self, rest: bytes) -> None:
        """Checks that the rest of a whole COPY is its trailer."""
        ...


async def copy_rows(connection: asyncpg.Connection, rows: RowDecoder, timeout: float | None = None) -> None:
    """Executes a query as binary COPY and decodes it part by part in a worker thread.

    COPY streams, so memory is bounded, and it needs no Python object for each value, as records do. After an
    error the connection is terminated: asyncpg may wait for ever for the end of an interrupted COPY.

    Args:
        connection: The connection.
        rows: The query and its decoder.
        timeout: Timeout in seconds, as `copy_from_query` of the connection defines it.

    Raises:
        Exception: An error of the connection or of the decoder.
    """
    decoder = CopyDecoder(rows)
    try:
        await connection.copy_from_query(rows.query.sql, output=decoder.put, format="binary", timeout=timeout)
        await decoder.finish()
    except BaseException:
        connection.terminate()
        raise
    finally:
        await decoder.wait_for_thread()


class CopyDecoder:
    """Collects bytes into parts and feeds them, one after the other, to a decoder in a worker thread."""

    def __init__(self, rows: RowDecoder) -> None:
        self._rows = rows
        self._received: list[bytes] = []
        self._size = 0
        self._rest: bytes | None = None  # None until the header is removed
        self._decoding: asyncio.Task[None] | None = None

    async def put(self, data: bytes) -> None:
        """Adds bytes. Waits only if a part is full and the previous one is not decoded yet.

        Raises:
            Exception: The decoder rejected the previous part.
        """
        self._received.append(data)
        self._size += len(data)
        if self._size >= PART_BYTES:
            await self._start_decoding()

    async def finish(self) -> None:
        """Decodes the last part.

        Raises:
            Exception: The decoder rejected the part, or the COPY is incomplete.
        """
        await self._start_decoding()
        await self._wait_for_decoding()
        assert self._rest is not None
        self._rows.finish(self._rest)

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
        self._rest = self._rows.feed(without_header(data) if self._rest is None else data)
