"""A real PostgreSQL and a real Redis-protocol server as child processes, for the demo and the tests."""

from animora_server.embedded.errors import EmbeddedError
from animora_server.embedded.postgres import EmbeddedPostgres
from animora_server.embedded.redis import EmbeddedRedis
from animora_server.embedded.schema import apply_schema

__all__ = ["EmbeddedError", "EmbeddedPostgres", "EmbeddedRedis", "apply_schema"]
