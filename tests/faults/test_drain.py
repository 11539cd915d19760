"""SIGTERM under load: the server answers what it has taken, and ends in time."""

import asyncio
import signal
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from animora_client import AsyncRankingClient
from tests.support.feed import TRAINED_USERS
from tests.support.processes import listening_port, start
from tests.support.until import HANG_TIMEOUT

DELAY, GRACE = 0.5, 5.0  # seconds: the server's options


@pytest.mark.failure(26)
@pytest.mark.usefixtures("store")
async def test_a_server_reports_not_serving_and_ends_within_its_grace_under_load(options, seen):
    server = await start(
        "serve", **options | {"GRPC_DRAIN_DELAY": str(DELAY), "GRPC_DRAIN_GRACE": str(GRACE)}
    )
    stop, answered = asyncio.Event(), 0

    async def call(client: AsyncRankingClient) -> None:
        nonlocal answered
        while not stop.is_set():
            await client.rank(TRAINED_USERS[0], [100, 200], timeout=HANG_TIMEOUT)
            answered += 1

    try:
        async with asyncio.timeout(HANG_TIMEOUT):
            port = await listening_port(server)
            async with (
                AsyncRankingClient(f"127.0.0.1:{port}") as client,
                grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
            ):
                watch = aiter(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()))
                while (await anext(watch)).status != health_pb2.HealthCheckResponse.SERVING:
                    pass
                callers = [asyncio.create_task(call(client)) for _ in range(8)]
                server.send_signal(signal.SIGTERM)
                began = time.monotonic()
                assert (await anext(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
                stop.set()
                await asyncio.gather(*callers)
                assert await server.wait() == 0
                seconds = time.monotonic() - began
    finally:
        if server.returncode is None:
            server.kill()
        await server.communicate()
    seen.note(f"NOT_SERVING at once; all of {answered} calls answered")
    seen.number("exit", seconds, at_most=DELAY + GRACE + 1, unit="s")
