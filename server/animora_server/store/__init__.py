"""Reads PostgreSQL through the four views and keeps the resident catalog in sync with it."""

from animora_server.store.blocks import BlockRefresher
from animora_server.store.catalog_sync import CatalogSync
from animora_server.store.listener import EventListener
from animora_server.store.postgres import PostgresStore

__all__ = ["BlockRefresher", "CatalogSync", "EventListener", "PostgresStore"]
