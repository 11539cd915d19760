"""Fixtures of the client's tests."""

import pytest
from animora_client import AsyncRankingClient

from tests.client.scripted_server import serving


@pytest.fixture
async def server():
    async with serving() as scripted:
        yield scripted


@pytest.fixture
async def client(server):
    async with AsyncRankingClient(server.target, timeout=10) as opened:
        yield opened
