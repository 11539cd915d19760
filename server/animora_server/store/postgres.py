"""PostgreSQL through asyncpg: one connection, dropped at the first trouble and made anew when next needed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import asyncpg
import numpy as np
import numpy.typing as npt

from animora_server.catalog import IdMap, Pairs, PostRecords
from animora_server.settings import DatabaseSettings
from animora_server.store import queries
from animora_server.store.binary import (
    EmbeddingDecoder,
    EmbeddingRows,
    FixedColumns,
    decode_array,
    decode_halfvec,
    decode_vector,
)
from animora_server.store.connection import Connector, translated
from animora_server.store.parts import PartFeeder
from animora_server.store.protocols import TakeEmbeddings
from animora_server.store.views import EmbeddingTypes, check_views
from animora_server.types import IntArray

IDS_AT_ONCE = 10_000
POSTGRES_EPOCH = 946_684_800  # 2000-01-01 in unix seconds; timestamps are microseconds from there
# Of pgvector's types; all others are read as real[].
DECODERS: dict[str, EmbeddingDecoder] = {"vector": decode_vector, "halfvec": decode_halfvec}
NO_LIMIT = 7 * 86_400.0  # asyncpg's own timeout counts a whole COPY; silence is what is bounded here


class PostgresStore:
    """The application's database, read through the four views in read-only transactions.

    Raises:
        ConfigurationError: `database.url` cannot be used.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._connector = Connector("database.url", settings.url, settings)
        self._connection: asyncpg.Connection | None = None
        self._types = EmbeddingTypes("", "")

    @asynccontextmanager
    async def reading(self) -> AsyncIterator["PostgresReading"]:
        """Begins a reading, over a new connection if there is none.

        Raises:
            StoreError: PostgreSQL does not answer, or its views are not as they must be.
        """
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection, self._types = await self._connect()
            with translated():
                await self._connection.execute("begin isolation level repeatable read read only")
                # Not now(), when the transaction began: what is read is as of this query, if late.
                now = await self._connection.fetchval("select statement_timestamp()")
            yield PostgresReading(self._connection, self._types, now, self._settings.command_timeout)
            with translated():
                await self._connection.execute("commit")
        except BaseException:
            # Whatever state it is in, the next reading starts from a clean one.
            self.close()
            raise

    def close(self) -> None:
        """Drops the connection at once, whatever state the server is in."""
        if self._connection is not None:
            # Not close(), which waits for an answer.
            self._connection.terminate()
            self._connection = None

    async def _connect(self) -> tuple[asyncpg.Connection, EmbeddingTypes]:
        connection = await self._connector.connect()
        try:
            with translated():
                return connection, await check_views(connection)
        except BaseException:
            # Nobody else knows of it yet: not even a cancellation may leave it open.
            connection.terminate()
            raise


class PostgresReading:
    """One read-only transaction; see `protocols.CatalogReading`."""

    def __init__(
        self, connection: asyncpg.Connection, types: EmbeddingTypes, now: datetime, silence: float
    ) -> None:
        self.now = now
        self._connection = connection
        self._image, self._decode_image = _embedding("image_embedding", types.image)
        self._caption, self._decode_caption = _embedding("caption_embedding", types.caption)
        self._silence = silence

    async def posts(self) -> PostRecords:
        """See CatalogReading."""
        return await self._posts(queries.POSTS)

    async def posts_since(self, moment: datetime) -> PostRecords:
        """See CatalogReading."""
        return await self._posts(queries.POSTS_SINCE, moment)

    async def posts_of(self, ids: IntArray) -> PostRecords:
        """See CatalogReading."""
        return await self._posts(queries.POSTS_OF, ids.tolist())

    async def filled(self, no_image: IntArray, no_caption: IntArray) -> IntArray:
        """See CatalogReading."""
        (ids,) = await self._columns(
            queries.ID_COLUMN, queries.FILLED, no_image.tolist(), no_caption.tolist()
        )
        return np.unique(ids)

    async def embeddings(self, take: TakeEmbeddings) -> None:
        """See CatalogReading."""
        await self._embeddings(take, "")

    async def embeddings_of(self, ids: IntArray, take: TakeEmbeddings) -> None:
        """See CatalogReading."""
        for start in range(0, len(ids), IDS_AT_ONCE):
            await self._embeddings(take, "and id = any($1)", ids[start : start + IDS_AT_ONCE].tolist())

    async def interaction_counts(self, until: datetime) -> IdMap:
        """See CatalogReading."""
        pairs = await self._pairs(queries.INTERACTION_COUNTS, until)
        return await asyncio.to_thread(IdMap.of, pairs.first, pairs.second)

    async def interactions(self, since: datetime, until: datetime | None = None) -> Pairs:
        """See CatalogReading."""
        if until is None:
            return await self._pairs(queries.INTERACTIONS_SINCE, since)
        return await self._pairs(queries.INTERACTIONS_BETWEEN, since, until)

    async def blocks(self) -> Pairs:
        """See CatalogReading."""
        return await self._pairs(queries.BLOCKS)

    async def users(self, active_since: datetime | None = None) -> IntArray:
        """All users by id, or those who liked or commented since a moment, the most active first: int64 (u).

        Raises:
            StoreError: PostgreSQL did not answer.
        """
        if active_since is None:
            (ids,) = await self._columns(queries.ID_COLUMN, queries.USERS)
        else:
            (ids,) = await self._columns(queries.ID_COLUMN, queries.ACTIVE_USERS, active_since)
        return ids

    async def _posts(self, query: str, *arguments: object) -> PostRecords:
        columns = await self._columns(queries.POST_COLUMNS, query, *arguments)
        ids, author_ids, created_at, updated_at, deleted = columns
        posts = PostRecords(ids, author_ids, created_at / 1e6 + POSTGRES_EPOCH, updated_at, deleted)
        return await asyncio.to_thread(posts.distinct)

    async def _pairs(self, query: str, *arguments: object) -> Pairs:
        return Pairs(*await self._columns(queries.PAIR_COLUMNS, query, *arguments))

    async def _columns(
        self, types: tuple[str, ...], query: str, *arguments: object
    ) -> list[npt.NDArray[Any]]:
        columns = FixedColumns(types)
        await self._copy(columns.feed, query, *arguments)
        return await asyncio.to_thread(columns.columns)

    async def _embeddings(self, take: TakeEmbeddings, condition: str, *arguments: object) -> None:
        rows = EmbeddingRows(self._decode_image, self._decode_caption, take)
        query = f"{queries.embeddings(self._image, self._caption)} {condition}"
        await self._copy(rows.feed, query, *arguments)

    async def _copy(self, feed: Callable[[bytes], bytes], query: str, *arguments: object) -> None:
        """Runs a query and feeds its binary COPY, part by part, in a worker thread.

        COPY streams, so memory stays bounded, and it makes no object a value, as fetching records does.
        """
        parts = PartFeeder(feed)
        loop = asyncio.get_running_loop()
        try:
            with translated():
                async with asyncio.timeout(self._silence) as limit:

                    async def receive(data: bytes) -> None:
                        await parts.put(data)
                        limit.reschedule(loop.time() + self._silence)

                    await self._connection.copy_from_query(
                        query, *arguments, output=receive, format="binary", timeout=NO_LIMIT
                    )
            await parts.finish()
        finally:
            await parts.settle()


def _embedding(column: str, type_name: str) -> tuple[str, EmbeddingDecoder]:
    """How a column of embeddings is selected, and decoded: a vector takes half the bytes of an array."""
    decoder = DECODERS.get(type_name)
    return (f"{column}::real[]", decode_array) if decoder is None else (column, decoder)
