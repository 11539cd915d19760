"""The stores over a real Redis, and a plain client."""

from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from redis.asyncio import Redis

from animora_server.precompute.generation_store import RedisGenerations
from tests.support.redis_stores import Stores


@pytest.fixture
async def stores(redis_url: str) -> AsyncIterator[Stores]:
    async with Stores(redis_url) as opened:
        yield opened


@pytest.fixture
def generations(stores: Stores) -> RedisGenerations:
    return stores.generations


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with redis.asyncio.from_url(redis_url) as opened:
        yield opened
