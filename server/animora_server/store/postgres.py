"""PostgreSQL through asyncpg, over one connection, which is replaced after any error."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import numpy as np

from animora_database.copy_format import Columns, EmbeddingRows, FixedRows, unix_seconds
from animora_database.copying import RowDecoder, copy_rows
from animora_database.embeddings import EmbeddingBatch
from animora_database.errors import UnusableView
from animora_database.reading import (
    Row,
    begin_reading,
    check_views,
    count_left_out,
    embedding_decoders,
    find_hiding_tables,
)
from animora_database.views import USER_IDS, VIEWS, View, ViewQuery
from animora_server.catalog import (
    CsrIndex,
    CsrIndexBuilder,
    EmbeddingRecords,
    HistoryBuilder,
    HistoryIndex,
    IdMap,
    IdPairs,
    Interactions,
    PostRecords,
)
from animora_server.errors import StoreError
from animora_server.settings import DatabaseSettings
from animora_server.store import queries
from animora_server.store.connection import Connector
from animora_server.store.protocols import TakeEmbeddings
from animora_server.store.watched_connection import WatchedConnection
from animora_server.types import IntArray

IDS_PER_QUERY = 10_000
COUNTING_TIMEOUT_FACTOR = 10.0  # for queries that read all interactions


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
            await begin_reading(self._connection)
            # Not now(), the start of the transaction: the transaction's snapshot is taken by this query.
            now, pid = await self._connection.fetchrow(
                "select pg_catalog.statement_timestamp(), pg_catalog.pg_backend_pid()"
            )
            self._connection.set_server_pid(pid)
            columns = await check_views(self._connection, views)
            yield PostgresReading(self._connection, columns, now, self._settings.command_timeout)
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
        self, connection: WatchedConnection, columns: Sequence[Row], now: datetime, silence: float
    ) -> None:
        self.now = now
        self._connection = connection
        self._view_columns = columns
        self._silence = silence

    async def hidden(self) -> list[tuple[str, str, str]]:
        """See CatalogReading."""
        return await find_hiding_tables(self._connection)

    async def left_out(self) -> dict[tuple[str, str], int]:
        """See CatalogReading."""
        return await count_left_out(self._connection, COUNTING_TIMEOUT_FACTOR * self._silence)

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
            found += await self._columns(query)
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

    async def interactions(
        self, since: datetime, until: datetime | None = None, *, history: int
    ) -> Interactions:
        """See CatalogReading."""
        return _interactions(await self._columns(queries.interactions(since, until, history)))

    async def seen_posts(
        self, since: datetime, until: datetime, *, history: int
    ) -> tuple[CsrIndex, HistoryIndex]:
        """See CatalogReading."""
        seen, histories = CsrIndexBuilder(), HistoryBuilder(history)

        def take(columns: Columns) -> None:
            interactions = _interactions(columns)
            seen.add(interactions.user_ids, interactions.post_ids)
            histories.add(interactions)

        await self._copy(
            FixedRows(queries.interactions(since, until, history), take), COUNTING_TIMEOUT_FACTOR
        )
        return await asyncio.to_thread(lambda: (seen.build(), histories.build()))

    async def blocks(self) -> IdPairs:
        """See CatalogReading."""
        return await self._pairs(queries.BLOCKS)

    async def users(self, active_since: datetime | None = None) -> IntArray:
        """All users by id, or the users active since a moment, the most active first: int64 (u).

        Raises:
            StoreError: PostgreSQL did not answer.
        """
        (ids,) = await self._columns(USER_IDS if active_since is None else queries.active_users(active_since))
        return ids

    async def _posts(self, query: ViewQuery) -> PostRecords:
        ids, author_ids, created_at, updated_at, deleted = await self._columns(query)
        posts = PostRecords(ids, author_ids, unix_seconds(created_at), updated_at, deleted)
        return await asyncio.to_thread(posts.distinct)

    async def _pairs(self, query: ViewQuery, timeout_factor: float = 1.0) -> IdPairs:
        return IdPairs(*await self._columns(query, timeout_factor))

    async def _columns(self, query: ViewQuery, timeout_factor: float = 1.0) -> Columns:
        parts: list[Columns] = []
        await self._copy(FixedRows(query, parts.append), timeout_factor)
        return await asyncio.to_thread(
            lambda: [np.concatenate(column) for column in zip(*parts, strict=True)]
        )

    async def _embeddings(self, take: TakeEmbeddings, query: ViewQuery) -> None:
        def take_records(columns: Columns, images: EmbeddingBatch, captions: EmbeddingBatch) -> None:
            take(EmbeddingRecords(columns[0], images, captions))

        await self._copy(EmbeddingRows(query, embedding_decoders(self._view_columns), take_records))

    async def _copy(self, rows: RowDecoder, timeout_factor: float = 1.0) -> None:
        """Executes a query, which may be silent for a multiple of the command timeout."""
        await copy_rows(self._connection, rows, timeout_factor * self._silence)


def _interactions(columns: Columns) -> Interactions:
    """Interactions from the columns of `queries.PAIRS` or `queries.TIMED`."""
    if len(columns) == len(queries.PAIRS.types):
        return Interactions(*columns)
    user_ids, post_ids, kinds, times = columns
    return Interactions(user_ids, post_ids, kinds.astype(np.int8), times)
