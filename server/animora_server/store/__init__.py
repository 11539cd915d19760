"""PostgreSQL, read through the four views, and what keeps the resident catalog like it."""

from animora_server.store.blocks import BlockRefresher
from animora_server.store.listener import FactListener
from animora_server.store.postgres import PostgresStore
from animora_server.store.refresher import CatalogRefresher

__all__ = ["BlockRefresher", "CatalogRefresher", "FactListener", "PostgresStore"]
