"""PostgreSQL, read through the four views, and what keeps the resident catalog like it."""

from animora_server.store.blocks import BlockRefresher
from animora_server.store.catalog_sync import CatalogSync
from animora_server.store.listener import EventListener
from animora_server.store.postgres import PostgresStore

__all__ = ["BlockRefresher", "CatalogSync", "EventListener", "PostgresStore"]
