"""A server whose log is not read, as by a stuck collector, keeps serving and ends on a signal."""

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.support.redis_servers import make_certificates
from tests.support.unread_log import CALLS, send_compressed, status, unread
from tests.support.until import HANG_TIMEOUT


async def fail_handshakes(port: int) -> None:
    """Speaks no TLS where TLS is spoken, again and again."""
    for _ in range(CALLS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionError):
            await reader.read()
        writer.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


@pytest.mark.failure(28)
async def test_failed_handshakes_do_not_stop_a_server(feed, certificates: Path):
    async with (
        unread(
            DATABASE_URL=feed.url,
            GRPC_TLS_CERTIFICATE=str(certificates / "leaf.pem"),
            GRPC_TLS_KEY=str(certificates / "leaf.key"),
        ) as server,
        asyncio.timeout(HANG_TIMEOUT),
    ):
        trusted = grpc.ssl_channel_credentials((certificates / "ca.pem").read_bytes())
        async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", trusted) as channel:
            assert await status(channel, "liveness") == health_pb2.HealthCheckResponse.SERVING
        await fail_handshakes(server.port)
        async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", trusted) as channel:
            assert await status(channel, "liveness") == health_pb2.HealthCheckResponse.SERVING
        assert await server.end(signal.SIGTERM) == 0


async def test_calls_that_grpc_refuses_do_not_stop_a_server_and_sighup_drains_it(feed):
    async with unread(DATABASE_URL=feed.url) as server, asyncio.timeout(HANG_TIMEOUT):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            await status(channel, "liveness")
            await send_compressed(channel)
            assert await status(channel, "liveness") == health_pb2.HealthCheckResponse.SERVING
        assert await server.end(signal.SIGHUP) == 0


async def test_a_crash_ends_a_server_whose_log_is_full(feed):
    async with unread(DATABASE_URL=feed.url) as server, asyncio.timeout(HANG_TIMEOUT):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            await status(channel, "liveness")
            await send_compressed(channel)
        assert await server.end(signal.SIGSEGV) == -signal.SIGSEGV


async def test_every_log_line_is_json_and_repeated_lines_are_counted(feed):
    async with unread(pipe_bytes=1 << 20, DATABASE_URL=feed.url) as server, asyncio.timeout(HANG_TIMEOUT):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            await status(channel, "liveness")
            await send_compressed(channel)
        assert await server.end(signal.SIGTERM) == 0
        log = server.log()
    repeated = [entry for entry in log if "is disabled" in entry["event"]]
    counted = sum(entry["lines"] for entry in log if "is disabled" in entry.get("similar_to", ""))
    assert repeated
    assert {entry["source"].partition(":")[0] for entry in repeated} == {"call.cc"}
    assert len(repeated) + counted == CALLS
