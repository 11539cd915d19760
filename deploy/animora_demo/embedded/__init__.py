"""A real PostgreSQL and a real Redis-protocol server as child processes, for the demo and the tests."""

from animora_demo.embedded.errors import EmbeddedError
from animora_demo.embedded.postgres import EmbeddedPostgres
from animora_demo.embedded.redis import EmbeddedRedis
from animora_demo.embedded.schema import apply_schema

__all__ = ["EmbeddedError", "EmbeddedPostgres", "EmbeddedRedis", "apply_schema"]
