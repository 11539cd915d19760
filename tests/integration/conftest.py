"""A small feed in a real database, and the whole server over it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import pytest

from animora_artifact import FolderStore
from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceStub
from animora_server.app import Application, running
from animora_server.settings import Settings
from tests.support.artifacts import active_store
from tests.support.feed import Feed
from tests.support.until import HANG_TIMEOUT

if TYPE_CHECKING:
    from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceAsyncStub

OPTIONS: dict[str, dict[str, Any]] = {
    # Calls without a deadline have time for an answer that is not a fallback, whatever else the machine does.
    "grpc": {"port": 0, "drain_delay": 0.0, "drain_grace": 2.0, "default_timeout": 60.0},
    "http": {"port": 0},
    "cache": {"timeout": 10.0},  # a look-up that comes late is a hit all the same
    "catalog": {"poll_interval": 0.05},
    "models": {"poll_interval": 0.05, "preflight": False},  # which test_preflight.py has
    "scorer": {"device": "cpu"},
}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """A model store with version v1 active."""
    return active_store(tmp_path / "models")


@pytest.fixture
def settings(feed: Feed, redis_url: str, store: FolderStore, tmp_path: Path) -> Settings:
    """Everything on, on free ports."""
    return Settings.model_validate(
        {
            **OPTIONS,
            "database": {"url": feed.url},
            "cache": {**OPTIONS["cache"], "url": redis_url},
            "models": {**OPTIONS["models"], "store": str(tmp_path / "models"), "ready_requires_model": True},
        }
    )


@pytest.fixture
async def application(settings: Settings) -> AsyncIterator[Application]:
    """The server, once it is SERVING."""
    async with running(settings) as application, asyncio.timeout(HANG_TIMEOUT):
        await application.wait_until_serving()
        yield application


@pytest.fixture
async def stub(application: Application) -> AsyncIterator["RankingServiceAsyncStub"]:
    """The plain generated stub over a real channel."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.grpc.port}") as channel:
        yield RankingServiceStub(channel)


@pytest.fixture
async def database(feed: Feed) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the application's own, which may write."""
    connection = await asyncpg.connect(feed.url)
    yield connection
    await connection.close()
