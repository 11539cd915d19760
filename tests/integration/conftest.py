"""A small feed in a real database, and the whole server over it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from animora_artifact import FolderStore
from animora_server.app import Application, running
from animora_server.settings import Settings
from tests.integration.serving import connected, settings_for
from tests.support.artifacts import active_store
from tests.support.feed import Feed
from tests.support.until import HANG_TIMEOUT

if TYPE_CHECKING:
    from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceAsyncStub


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """A model store with version v1 active."""
    return active_store(tmp_path / "models")


@pytest.fixture
def settings(feed: Feed, redis_url: str, store: FolderStore, tmp_path: Path) -> Settings:
    """Every part of the server on, on free ports."""
    return settings_for(feed.url, redis_url, tmp_path / "models")


@pytest.fixture
async def application(settings: Settings) -> AsyncIterator[Application]:
    """The server, once it is SERVING."""
    async with running(settings) as application, asyncio.timeout(HANG_TIMEOUT):
        await application.listen()
        yield application


@pytest.fixture
async def stub(application: Application) -> AsyncIterator["RankingServiceAsyncStub"]:
    """The plain generated stub over a real channel."""
    async with connected(application) as stub:
        yield stub


@pytest.fixture
async def database(feed: Feed) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the application's own, which may write."""
    connection = await asyncpg.connect(feed.url)
    yield connection
    await connection.close()
