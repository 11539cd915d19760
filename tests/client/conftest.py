"""Fixtures of the client's tests."""

import socket

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


@pytest.fixture
def unused_target():
    """An address where nobody listens, held so that nobody can."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"
