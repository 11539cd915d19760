"""A small feed in a real database, a model for it, and generations in memory."""

import asyncpg
import pytest

from animora_server.settings import Settings
from tests.cache.conftest import client, generations, stores  # noqa: F401  # fixtures
from tests.precompute.fakes import FakeGenerations
from tests.support.artifacts import active_store


@pytest.fixture
async def database(feed):
    """A connection of the application's own, which may write."""
    connection = await asyncpg.connect(feed.url)
    yield connection
    await connection.close()


@pytest.fixture
def models(tmp_path):
    """A model store with version v1 active."""
    return active_store(tmp_path / "models")


@pytest.fixture
def settings(feed, models, tmp_path):
    return Settings.model_validate(
        {
            "database": {"url": feed.url},
            "models": {"store": str(tmp_path / "models")},
            "scorer": {"device": "cpu"},
        }
    )


@pytest.fixture
def store():
    return FakeGenerations()
