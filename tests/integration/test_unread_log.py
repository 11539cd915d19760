"""A server whose log nobody reads, as beside a stuck collector, serves on and ends when it is told to."""

import asyncio
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.cache.servers import make_certificates
from tests.limits import HANG_TIMEOUT

CALLS = 1200
PIPE_BYTES = 4096  # a few lines fill it


class Unread:
    """A server as a process, with a pipe for its log that nobody reads until it has ended."""

    def __init__(self, process: "subprocess.Popen[bytes]", reader: int, port: int) -> None:
        self.process = process
        self.port = port
        self._reader = reader

    async def end(self, number: signal.Signals) -> int:
        """The exit status after a signal."""
        self.process.send_signal(number)
        async with asyncio.timeout(HANG_TIMEOUT):
            return await asyncio.to_thread(self.process.wait)

    def log(self) -> list[dict[str, Any]]:
        """What fitted into the pipe, once the server has ended."""
        with open(self._reader, "rb", closefd=False) as lines:
            return [json.loads(line) for line in lines]


@asynccontextmanager
async def unread(*arguments: str, pipe_bytes: int = PIPE_BYTES, **options: str) -> AsyncIterator[Unread]:
    """Starts `serve`; it is killed at the end if it still runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANIMORA_")}
    options = {"SCORER_DEVICE": "cpu", "GRPC_DRAIN_DELAY": "0", "HTTP_PORT": "0"} | options
    options |= {"GRPC_PORT": str(port)}
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, pipe_bytes)
    process = subprocess.Popen(  # noqa: ASYNC220  # it begins in no time
        [sys.executable, "-m", "animora_server", "serve", *arguments],
        env=inherited | {f"ANIMORA_{name}": value for name, value in options.items()},
        stderr=writer,
    )
    os.close(writer)
    try:
        yield Unread(process, reader, port)
    finally:
        process.kill()
        process.wait()
        os.close(reader)


async def status(channel: grpc.aio.Channel, name: str) -> int:
    """What health says, once the server answers."""
    request = health_pb2.HealthCheckRequest(service=name)
    health: Any = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(request, timeout=HANG_TIMEOUT, wait_for_ready=True)
    return int(answer.status)


async def fail_handshakes(port: int) -> None:
    """Speaks no TLS where TLS is spoken, again and again."""
    for _ in range(CALLS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionError):
            await reader.read()
        writer.close()


async def send_compressed(channel: grpc.aio.Channel) -> None:
    """Makes calls with a compressed request, which gRPC's core refuses and logs by itself."""
    call: Any = channel.unary_unary("/animora.ranking.v1.RankingService/Rank")
    for _ in range(CALLS):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"x" * 2000, timeout=HANG_TIMEOUT, compression=grpc.Compression.Gzip)
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


NO_DATABASE = "postgresql://nobody@127.0.0.1:1/nothing"


async def test_failed_handshakes_do_not_stop_a_server(certificates: Path):
    async with (
        unread(
            DATABASE_URL=NO_DATABASE,
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


async def test_calls_that_grpc_refuses_do_not_stop_a_server_and_sighup_drains_it():
    async with unread(DATABASE_URL=NO_DATABASE) as server, asyncio.timeout(HANG_TIMEOUT):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            await status(channel, "liveness")
            await send_compressed(channel)
            assert await status(channel, "liveness") == health_pb2.HealthCheckResponse.SERVING
        assert await server.end(signal.SIGHUP) == 0


async def test_a_crash_ends_a_server_whose_log_is_full():
    async with unread(DATABASE_URL=NO_DATABASE) as server, asyncio.timeout(HANG_TIMEOUT):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            await status(channel, "liveness")
            await send_compressed(channel)
        assert await server.end(signal.SIGSEGV) == -signal.SIGSEGV


async def test_every_log_line_is_json_and_repeated_lines_are_counted():
    async with unread(pipe_bytes=1 << 20, DATABASE_URL=NO_DATABASE) as server, asyncio.timeout(HANG_TIMEOUT):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            await status(channel, "liveness")
            await send_compressed(channel)
        assert await server.end(signal.SIGTERM) == 0
        log = server.log()
    told = [entry for entry in log if "is disabled" in entry["event"]]
    counted = sum(entry["lines"] for entry in log if "is disabled" in entry.get("similar_to", ""))
    assert told
    assert {entry["source"].partition(":")[0] for entry in told} == {"call.cc"}
    assert len(told) + counted == CALLS
