"""The whole server in this process, and stubs that call it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceStub
from animora_server.app import Application, running
from animora_server.settings import Settings
from tests.support.until import HANG_TIMEOUT

if TYPE_CHECKING:
    from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceAsyncStub

OPTIONS: dict[str, dict[str, Any]] = {
    # Calls without a deadline have time for an answer that is not a fallback, however busy the machine is.
    "grpc": {"port": 0, "ready_delay": 0.0, "drain_delay": 0.0, "drain_grace": 2.0, "default_timeout": 60.0},
    "http": {"port": 0},
    "cache": {"timeout": 10.0},  # so that a slow look-up is still a hit
    "catalog": {"poll_interval": 0.05},
    "models": {"poll_interval": 0.05, "preflight": False, "ready_requires_model": True},
    "scorer": {"device": "cpu"},
}


def settings_for(database_url: str, redis_url: str, store: Path, **changes: dict[str, Any]) -> Settings:
    """Settings with every part of the server on, on free ports; `changes` are options by section."""
    addresses = {
        "database": {"url": database_url},
        "cache": {"url": redis_url},
        "models": {"store": str(store)},
    }
    sections = OPTIONS.keys() | addresses.keys() | changes.keys()
    return Settings.model_validate(
        {name: OPTIONS.get(name, {}) | addresses.get(name, {}) | changes.get(name, {}) for name in sections}
    )


def with_options(settings: Settings, **changes: dict[str, Any]) -> Settings:
    """The settings with changed options, by section."""
    sections = settings.model_dump()
    return Settings.model_validate(sections | {name: sections[name] | changes[name] for name in changes})


@asynccontextmanager
async def connected(application: Application) -> AsyncIterator["RankingServiceAsyncStub"]:
    """The plain generated stub over a real channel."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.grpc.port}") as channel:
        yield RankingServiceStub(channel)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[Application, "RankingServiceAsyncStub"]]:
    """Runs a server; yields it with a stub once it is SERVING."""
    async with running(settings) as application, asyncio.timeout(HANG_TIMEOUT):
        await application.listen()
        async with connected(application) as stub:
            yield application, stub
