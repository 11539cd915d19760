"""The resident catalog: posts, their interactions and everyone's blocks, as immutable snapshots.

`PostTable` assigns rows, `PostDraft` makes the next table from what the database says, and `Catalog` joins a
table with interactions and blocks into the `CatalogSnapshot` that requests pin. `Facts` heard between two
readings correct it.
"""

from animora_server.catalog.catalog import Activity, Catalog, InteractionBase
from animora_server.catalog.corrections import Facts, RecentFacts, corrected
from animora_server.catalog.draft import PostDraft
from animora_server.catalog.embeddings import EmbeddingFile
from animora_server.catalog.feed import Feed
from animora_server.catalog.gathering import GroupsBuilder
from animora_server.catalog.lookup import Groups, IdMap
from animora_server.catalog.records import (
    NEVER,
    NO_EMBEDDING,
    POSTGRES_EPOCH,
    EmbeddingColumn,
    EmbeddingRecords,
    Pairs,
    PostRecords,
)
from animora_server.catalog.relations import Relations
from animora_server.catalog.snapshot import CatalogSnapshot
from animora_server.catalog.table import PostTable
from animora_server.catalog.widths import NO_PREFERENCE, NO_WIDTHS, WidthPreference, Widths

__all__ = [
    "NEVER",
    "NO_EMBEDDING",
    "NO_PREFERENCE",
    "NO_WIDTHS",
    "POSTGRES_EPOCH",
    "Activity",
    "Catalog",
    "CatalogSnapshot",
    "EmbeddingColumn",
    "EmbeddingFile",
    "EmbeddingRecords",
    "Facts",
    "Feed",
    "Groups",
    "GroupsBuilder",
    "IdMap",
    "InteractionBase",
    "Pairs",
    "PostDraft",
    "PostRecords",
    "PostTable",
    "RecentFacts",
    "Relations",
    "WidthPreference",
    "Widths",
    "corrected",
]
