"""PostgreSQL through asyncpg, over one connection, which is replaced after any error."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import asyncpg
import numpy as np
import numpy.typing as npt

from animora_database import row_security
from animora_database.checking import QUERY, Row, UnusableView, check_views, embedding_decoders
from animora_database.session import begin_reading
from animora_database.views import VIEWS, View
from animora_server.catalog import POSTGRES_EPOCH, CsrIndex, CsrIndexBuilder, IdMap, IdPairs, PostRecords
from animora_server.errors import StoreError
from animora_server.settings import DatabaseSettings
from animora_server.store import queries
from animora_server.store.binary import EmbeddingRows, FixedColumns
from animora_server.store.connection import Connector, translate_errors
from animora_server.store.copy_decoder import CopyDecoder
from animora_server.store.protocols import TakeEmbeddings
from animora_server.store.watched_connection import WatchedConnection
from animora_server.types import DoubleArray, IntArray

IDS_PER_QUERY = 10_000
COUNTING_TIMEOUT_FACTOR = 10.0  # for queries that read all interactions
COPY_TIMEOUT = 7 * 86_400.0  # effectively none for a whole COPY, because only silence is limited


class PostgresStore:
    """The application's database, read through the four views in read-only transactions. See CatalogStore.

    Raises:
        ConfigurationError: `database.url` cannot be used.
    """

    def __init__(self, settings: DatabaseSettings, connector: Connector | None = None) -> None:
        self._settings = settings
        self._connector = connector or Connector("database.url", settings.url, settings)
        self._connection: WatchedConnection | None = None

    @asynccontextmanager
    async def reading(self, views: Sequence[View] = VIEWS) -> AsyncIterator["PostgresReading"]:
        """Begins a reading of some views; opens a connection if there is none.

        Each reading checks the views, so changed views need no restart.

        Raises:
            StoreError: PostgreSQL did not answer, or a view lacks a column or has a wrong type.
        """
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connector.connect(connection_class=WatchedConnection)
                self._connection.watch(self._connector)
            with translate_errors():
                await self._connection.execute(begin_reading(self._connection.get_server_version().major))
                # Not now(), the start of the transaction: the transaction's snapshot is taken by this query.
                now, pid = await self._connection.fetchrow(
                    "select pg_catalog.statement_timestamp(), pg_catalog.pg_backend_pid()"
                )
                self._connection.set_server_pid(pid)
                columns = await self._connection.fetch(QUERY)
                check_views(columns, views)
            yield PostgresReading(self._connection, columns, now, self._settings.command_timeout)
            with translate_errors():
                await self._connection.execute("commit")
        except UnusableView as error:
            self.close()
            raise StoreError(str(error)) from error
        except BaseException:
            # The connection's state is unknown, so the next reading opens another one.
            self.close()
            raise

    def with_separate_connection(self) -> "PostgresStore":
        """See CatalogStore."""
        return PostgresStore(self._settings, self._connector)

    def close(self) -> None:
        """Drops the connection at once, without waiting for the server."""
        if self._connection is not None:
            # Not close(), which waits for the server's answer.
            self._connection.terminate()
            self._connection = None


class PostgresReading:
    """One read-only transaction; see `protocols.CatalogReading`."""

    def __init__(
        self, connection: asyncpg.Connection, columns: Sequence[Row], now: datetime, silence: float
    ) -> None:
        self.now = now
        self._connection = connection
        self._view_columns = columns
        self._silence = silence

    async def hidden(self) -> list[tuple[str, str, str]]:
        """See CatalogReading."""
        with translate_errors():
            return [tuple(row) for row in await self._connection.fetch(row_security.QUERY)]

    async def left_out(self) -> dict[tuple[str, str], int]:
        """See CatalogReading."""
        counts: dict[tuple[str, str], int] = {}
        for view in VIEWS:
            columns = await self._columns(
                (">i8",) * len(view.conditions), view.left_out_query, COUNTING_TIMEOUT_FACTOR
            )
            counts |= {
                (view.name, reason): int(column[0])
                for reason, column in zip(view.conditions, columns, strict=True)
            }
        return counts

    async def posts(self) -> PostRecords:
        """See CatalogReading."""
        return await self._posts(queries.POSTS)

    async def posts_since(self, moment: datetime) -> PostRecords:
        """See CatalogReading."""
        return await self._posts(queries.posts_since(moment))

    async def posts_of(self, ids: IntArray) -> PostRecords:
        """See CatalogReading."""
        return await self._posts(await asyncio.to_thread(queries.posts_of, ids))

    async def filled(self, no_image: IntArray, no_caption: IntArray) -> IntArray:
        """See CatalogReading."""
        found = [np.empty(0, np.int64)]
        for start in range(0, max(len(no_image), len(no_caption)), IDS_PER_QUERY):
            some = slice(start, start + IDS_PER_QUERY)
            query = await asyncio.to_thread(queries.filled, no_image[some], no_caption[some])
            found += await self._columns(queries.ID_COLUMN, query)
        return np.unique(np.concatenate(found))

    async def embeddings(self, take: TakeEmbeddings) -> None:
        """See CatalogReading."""
        await self._embeddings(take, queries.embeddings())

    async def embeddings_of(self, ids: IntArray, take: TakeEmbeddings) -> None:
        """See CatalogReading."""
        for start in range(0, len(ids), IDS_PER_QUERY):
            query = await asyncio.to_thread(queries.embeddings, ids[start : start + IDS_PER_QUERY])
            await self._embeddings(take, query)

    async def interaction_counts(self, until: datetime) -> IdMap:
        """See CatalogReading."""
        pairs = await self._pairs(queries.interaction_counts(until), COUNTING_TIMEOUT_FACTOR)
        return await asyncio.to_thread(IdMap.of, pairs.first, pairs.second)

    async def interactions(self, since: datetime, until: datetime | None = None) -> IdPairs:
        """See CatalogReading."""
        return await self._pairs(queries.interactions(since, until))

    async def seen_posts(self, since: datetime, until: datetime) -> CsrIndex:
        """See CatalogReading."""
        columns, builder = FixedColumns(queries.PAIR_COLUMNS), CsrIndexBuilder()

        def feed(data: bytes) -> bytes:
            rest = columns.feed(data)
            builder.add(*columns.take())
            return rest

        await self._copy(feed, queries.interactions(since, until), COUNTING_TIMEOUT_FACTOR)
        return await asyncio.to_thread(builder.build)

    async def blocks(self) -> IdPairs:
        """See CatalogReading."""
        return await self._pairs(queries.BLOCKS)

    async def users(self, active_since: datetime | None = None) -> IntArray:
        """All users by id, or the users active since a moment, the most active first: int64 (u).

        Raises:
            StoreError: PostgreSQL did not answer.
        """
        query = queries.USERS if active_since is None else queries.active_users(active_since)
        (ids,) = await self._columns(queries.ID_COLUMN, query)
        return ids

    async def _posts(self, query: str) -> PostRecords:
        ids, author_ids, created_at, updated_at, deleted = await self._columns(queries.POST_COLUMNS, query)
        posts = PostRecords(ids, author_ids, _unix_seconds(created_at), updated_at, deleted)
        return await asyncio.to_thread(posts.distinct)

    async def _pairs(self, query: str, timeout_factor: float = 1.0) -> IdPairs:
        return IdPairs(*await self._columns(queries.PAIR_COLUMNS, query, timeout_factor))

    async def _columns(
        self, types: tuple[str, ...], query: str, timeout_factor: float = 1.0
    ) -> list[npt.NDArray[Any]]:
        columns = FixedColumns(types)
        await self._copy(columns.feed, query, timeout_factor)
        return await asyncio.to_thread(columns.columns)

    async def _embeddings(self, take: TakeEmbeddings, query: str) -> None:
        decoders = embedding_decoders(self._view_columns)
        await self._copy(EmbeddingRows(decoders.image, decoders.caption, take).feed, query)

    async def _copy(self, feed: Callable[[bytes], bytes], query: str, timeout_factor: float = 1.0) -> None:
        """Executes a query as binary COPY and feeds it to a decoder, part by part, in a worker thread.

        COPY streams, so memory is bounded, and it needs no Python object for each value, as records do.

        Args:
            feed: Decodes bytes; see CopyDecoder.
            query: The query.
            timeout_factor: The query may be silent for this many times the command timeout.

        Raises:
            StoreError: PostgreSQL did not answer, or a view has nulls or types that it must not have.
        """
        parts = CopyDecoder(feed)
        silence = timeout_factor * self._silence
        loop = asyncio.get_running_loop()
        try:
            with translate_errors():
                async with asyncio.timeout(silence) as limit:

                    async def receive(data: bytes) -> None:
                        await parts.put(data)
                        limit.reschedule(loop.time() + silence)

                    await self._connection.copy_from_query(
                        query, output=receive, format="binary", timeout=COPY_TIMEOUT
                    )
            await parts.finish()
        finally:
            await parts.wait_for_thread()


def _unix_seconds(timestamps: IntArray) -> DoubleArray:
    """Unix seconds float64 (n) of timestamps int64 (n), rounded once, as PostgreSQL's `extract` does."""
    seconds, microseconds = np.divmod(timestamps, 1_000_000)
    rounded: DoubleArray = (seconds + POSTGRES_EPOCH) + microseconds / 1e6
    return rounded
