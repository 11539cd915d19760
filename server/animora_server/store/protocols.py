"""What the refresher needs from a database."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from animora_database.views import VIEWS, View
from animora_server.catalog import CsrIndex, EmbeddingRecords, IdMap, IdPairs, PostRecords
from animora_server.types import IntArray

TakeEmbeddings = Callable[[EmbeddingRecords], None]


class CatalogReading(Protocol):
    """One consistent view of the database. Every method may raise StoreError."""

    @property
    def now(self) -> datetime:
        """The database's time when the reading began."""
        ...

    async def hidden(self) -> Sequence[tuple[str, str, str]]:
        """Tables that hide rows by row-level security: the view, the table and the role that reads it."""
        ...

    async def left_out(self) -> Mapping[tuple[str, str], int]:
        """How many rows of the views do not count, by view and by reason."""
        ...

    async def posts(self) -> PostRecords:
        """All posts."""
        ...

    async def posts_since(self, moment: datetime) -> PostRecords:
        """The posts made, edited or soft-deleted since a moment."""
        ...

    async def posts_of(self, ids: IntArray) -> PostRecords:
        """Those of posts int64 (k) that are there."""
        ...

    async def filled(self, no_image: IntArray, no_caption: IntArray) -> IntArray:
        """Those posts without an image, or without a caption, that have one now: int64 (k)."""
        ...

    async def embeddings(self, take: TakeEmbeddings) -> None:
        """Gives the embeddings of all posts to `take`, part by part, in a worker thread."""
        ...

    async def embeddings_of(self, ids: IntArray, take: TakeEmbeddings) -> None:
        """Gives the embeddings of posts int64 (k) to `take`, as `embeddings` does."""
        ...

    async def interaction_counts(self, until: datetime) -> IdMap:
        """Interactions before a moment by post."""
        ...

    async def interactions(self, since: datetime, until: datetime | None = None) -> IdPairs:
        """Users and posts of the interactions since a moment, before another if one is given."""
        ...

    async def seen_posts(self, since: datetime, until: datetime) -> CsrIndex:
        """Posts by user, of the interactions since a moment and before another. May be of any number."""
        ...

    async def blocks(self) -> IdPairs:
        """All blockers and blocked."""
        ...


class CatalogStore(Protocol):
    """The database."""

    def reading(self, views: Sequence[View] = VIEWS) -> AbstractAsyncContextManager[CatalogReading]:
        """Begins a reading of some views, over a new connection if there is none. May raise StoreError."""
        ...

    def with_separate_connection(self) -> "CatalogStore":
        """The same database, over a connection of its own."""
        ...

    def close(self) -> None:
        """Drops the connection at once, whatever state the server is in."""
        ...
