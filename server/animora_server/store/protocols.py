"""The interface of the database: a store that begins readings."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from animora_database.views import VIEWS, View
from animora_server.catalog import (
    CsrIndex,
    EmbeddingRecords,
    HistoryIndex,
    IdMap,
    IdPairs,
    Interactions,
    PostRecords,
)
from animora_server.types import IntArray

TakeEmbeddings = Callable[[EmbeddingRecords], None]


class CatalogReading(Protocol):
    """One read-only transaction over the four views. Every method may raise StoreError."""

    @property
    def now(self) -> datetime:
        """The database's time when the reading began."""
        ...

    async def hidden(self) -> Sequence[tuple[str, str, str]]:
        """The tables that hide rows by row-level security: view, table, and the role that reads the table."""
        ...

    async def left_out(self) -> Mapping[tuple[str, str], int]:
        """The number of left-out rows, by view and reason."""
        ...

    async def posts(self) -> PostRecords:
        """All posts."""
        ...

    async def posts_since(self, moment: datetime) -> PostRecords:
        """The posts created, edited or soft-deleted since a moment."""
        ...

    async def posts_of(self, ids: IntArray) -> PostRecords:
        """The posts among ids int64 (k) that exist."""
        ...

    async def filled(self, no_image: IntArray, no_caption: IntArray) -> IntArray:
        """The posts that have an embedding now, among those that lacked an image or a caption: int64 (k)."""
        ...

    async def embeddings(self, take: TakeEmbeddings) -> None:
        """Passes the embeddings of all posts to `take`, part by part, in a worker thread."""
        ...

    async def embeddings_of(self, ids: IntArray, take: TakeEmbeddings) -> None:
        """Passes the embeddings of posts int64 (k) to `take`, part by part, in a worker thread."""
        ...

    async def interaction_counts(self, until: datetime) -> IdMap:
        """The number of interactions of each post before a moment."""
        ...

    async def interactions(
        self, since: datetime, until: datetime | None = None, *, history: int
    ) -> Interactions:
        """The interactions since a moment, and before `until` if given.

        Args:
            since: The moment.
            until: None for no end.
            history: The length of the histories that are kept; with 0 neither kinds nor times are read.
        """
        ...

    async def seen_posts(
        self, since: datetime, until: datetime, *, history: int
    ) -> tuple[CsrIndex, HistoryIndex]:
        """Posts and the last entries by user, from the interactions since a moment and before another.

        The interactions need not fit memory.

        Args:
            since: The first moment.
            until: The other moment.
            history: The number of entries of a user, at most; with 0 neither kinds nor times are read.
        """
        ...

    async def blocks(self) -> IdPairs:
        """All blockers and blocked users."""
        ...


class CatalogStore(Protocol):
    """The database, over one connection."""

    def reading(self, views: Sequence[View] = VIEWS) -> AbstractAsyncContextManager[CatalogReading]:
        """Begins a reading of some views; opens a connection if there is none. May raise StoreError."""
        ...

    def with_separate_connection(self) -> "CatalogStore":
        """A store of the same database with a separate connection."""
        ...

    def close(self) -> None:
        """Drops the connection at once, without waiting for the server."""
        ...
