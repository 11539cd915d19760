"""The resident catalog: posts, their interactions and everyone's blocks, as immutable snapshots.

`CatalogPosts` assigns rows, `PostTableBuilder` makes the next table from what the database says, and
`Catalog` joins a
table with interactions and blocks into the `CatalogSnapshot` that requests pin. `ChangeEvents` heard between
two
readings correct it.
"""

from animora_server.catalog.catalog import Activity, Catalog, InteractionBase
from animora_server.catalog.change_events import ChangeEvents, EventLog, apply_events
from animora_server.catalog.csr_builder import CsrIndexBuilder
from animora_server.catalog.embeddings import EmbeddingFile
from animora_server.catalog.feed import FeedIndex
from animora_server.catalog.index import CsrIndex, IdMap
from animora_server.catalog.records import (
    NEVER,
    NO_EMBEDDING,
    POSTGRES_EPOCH,
    EmbeddingBatch,
    EmbeddingRecords,
    IdPairs,
    PostRecords,
)
from animora_server.catalog.relations import Relations
from animora_server.catalog.snapshot import CatalogSnapshot
from animora_server.catalog.table import CatalogPosts
from animora_server.catalog.table_builder import PostTableBuilder
from animora_server.catalog.widths import NO_PREFERENCE, NO_WIDTHS, WidthPreference, Widths

__all__ = [
    "NEVER",
    "NO_EMBEDDING",
    "NO_PREFERENCE",
    "NO_WIDTHS",
    "POSTGRES_EPOCH",
    "Activity",
    "Catalog",
    "CatalogPosts",
    "CatalogSnapshot",
    "ChangeEvents",
    "CsrIndex",
    "CsrIndexBuilder",
    "EmbeddingBatch",
    "EmbeddingFile",
    "EmbeddingRecords",
    "EventLog",
    "FeedIndex",
    "IdMap",
    "IdPairs",
    "InteractionBase",
    "PostRecords",
    "PostTableBuilder",
    "Relations",
    "WidthPreference",
    "Widths",
    "apply_events",
]
