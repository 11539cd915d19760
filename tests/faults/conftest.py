"""Whole servers, in this process or as processes: the fixtures of the tests of both."""

from tests.integration.conftest import application, database, settings, store, stub
from tests.workers.conftest import options

__all__ = ["application", "database", "options", "settings", "store", "stub"]
