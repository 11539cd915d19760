"""The resident catalog: posts, interactions, seen posts, histories and blocks, as immutable snapshots.

`CatalogPosts` assigns rows to posts, `PostTableBuilder` makes the next table from the rows of the database,
and `Catalog` combines a table with interactions and blocks into the `CatalogSnapshot` of a serving state.
`ChangeEvents` that arrive between two readings are applied to the snapshot.
"""

from animora_server.catalog.catalog import Activity, Catalog, InteractionBase
from animora_server.catalog.change_events import ChangeEvents, EventLog, apply_events
from animora_server.catalog.csr_builder import CsrIndexBuilder
from animora_server.catalog.embeddings import EmbeddingFile
from animora_server.catalog.histories import Histories, History, HistoryBatch, HistoryIndex
from animora_server.catalog.history_builder import HistoryBuilder
from animora_server.catalog.index import CsrIndex, FeedIndex, IdMap
from animora_server.catalog.records import (
    NEVER,
    EmbeddingRecords,
    IdPairs,
    Interactions,
    PostRecords,
)
from animora_server.catalog.snapshot import CatalogSnapshot, Relations
from animora_server.catalog.table import CatalogPosts
from animora_server.catalog.table_builder import PostTableBuilder
from animora_server.catalog.widths import NO_PREFERENCE, NO_WIDTHS, WidthPreference, Widths

__all__ = [
    "NEVER",
    "NO_PREFERENCE",
    "NO_WIDTHS",
    "Activity",
    "Catalog",
    "CatalogPosts",
    "CatalogSnapshot",
    "ChangeEvents",
    "CsrIndex",
    "CsrIndexBuilder",
    "EmbeddingFile",
    "EmbeddingRecords",
    "EventLog",
    "FeedIndex",
    "Histories",
    "History",
    "HistoryBatch",
    "HistoryBuilder",
    "HistoryIndex",
    "IdMap",
    "IdPairs",
    "InteractionBase",
    "Interactions",
    "PostRecords",
    "PostTableBuilder",
    "Relations",
    "WidthPreference",
    "Widths",
    "apply_events",
]
