"""Connections that abuse HTTP/2: their neighbours' calls succeed, and the server serves on."""

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, suppress
from functools import partial
from http.client import HTTPConnection

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceStub
from animora_server.service import SERVICE_NAME
from tests.support import http2
from tests.support.artifacts import tiny_artifact
from tests.support.http2 import Http2Connection, frame, http2_connection
from tests.support.ledger import Ledger
from tests.support.processes import animora_environment, listening_ports
from tests.support.until import HANG_TIMEOUT, until

pytestmark = pytest.mark.failure(28)

NETWORKS = {"v1": tiny_artifact("v1", seed=1)[1]}
CALL = http2.header_block(f"/{SERVICE_NAME}/Rank")
FEW_FILES = 256
SEND_TIMEOUT = 2.0  # seconds; a server may stop reading what an attacker sends
Attack = Callable[[int], None]  # takes the port; blocks


class Attacked:
    """A server process under load, and its ports."""

    def __init__(self, ledger: Ledger, grpc_port: int, http_port: int) -> None:
        self.ledger = ledger
        self.grpc_port = grpc_port
        self._http_port = http_port

    async def probe(self) -> int:
        """The status of a liveness probe."""

        def get() -> int:
            connection = HTTPConnection("127.0.0.1", self._http_port, timeout=HANG_TIMEOUT)
            try:
                connection.request("GET", "/livez")
                return connection.getresponse().status
            finally:
                connection.close()

        return await asyncio.to_thread(get)


@asynccontextmanager
async def attacked(feed, options: dict[str, str], files: int) -> AsyncIterator[Attacked]:
    """Starts a server with a limit of open files, and calls it over one connection without retries."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'ulimit -n "$0" && exec "$@"', str(files)),
        *(sys.executable, "-m", "animora_server", "serve"),
        env=animora_environment(**options),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        grpc_port, http_port = await listening_ports(process)
        assert process.stderr is not None
        log = asyncio.create_task(process.stderr.read())  # so that the pipe does not fill
        arguments = [("grpc.enable_retries", 0)]
        ledger = Ledger(feed, NETWORKS)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}", options=arguments) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            await until(partial(_is_serving, health))
            async with ledger.load(RankingServiceStub(channel)):
                yield Attacked(ledger, grpc_port, http_port)
                await ledger.more(50)
        # A new client is served as well.
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
            ledger.load(RankingServiceStub(channel), workers=1),
        ):
            await ledger.more(5)
        assert process.returncode is None
        process.terminate()
        await log
        assert await process.wait() == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()


async def _is_serving(health: health_pb2_grpc.HealthStub) -> bool:
    response = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def acknowledged(port: int) -> AbstractContextManager[Http2Connection]:
    """A connection that has finished HTTP/2's handshake."""
    acknowledgement = frame(http2.SETTINGS, http2.ACK, 0)
    first = http2.PREFACE + frame(http2.SETTINGS, 0, 0) + acknowledgement
    return http2_connection(port, first, timeout=SEND_TIMEOUT)


def flood(connection: Http2Connection, data: bytes, times: int) -> bool:
    """Sends the same bytes again and again, and reads what comes. Returns whether it could send all."""
    for _ in range(times):
        if not connection.send(data):
            return False
        connection.discard()
    return True


def rapid_reset(port: int) -> None:
    """20,000 calls that are cancelled as soon as they are sent."""
    cancel = struct.pack(">I", http2.CANCEL)
    with acknowledged(port) as connection:
        for first in range(1, 40_000, 200):
            calls = (
                http2.header_frames(stream, CALL)
                + http2.message_frame(stream, b"")
                + frame(http2.RST_STREAM, 0, stream, cancel)
                for stream in range(first, first + 200, 2)
            )
            if not flood(connection, b"".join(calls), 1):
                return


def ping_flood(port: int) -> None:
    with acknowledged(port) as connection:
        flood(connection, frame(http2.PING, 0, 0, b"attacker") * 1000, 50)


def settings_flood(port: int) -> None:
    with acknowledged(port) as connection:
        flood(connection, http2.settings_frame(initial_window_size=65_535) * 1000, 50)


def continuation_flood(port: int) -> None:
    """A header block without an end: 32 MiB of headers."""
    with acknowledged(port) as connection:
        connection.send(http2.header_frames(1, CALL, is_complete=False))
        part = http2.header_block("/", {"x": "y" * 8000})
        flood(connection, frame(http2.CONTINUATION, 0, 1, part) * 16, 256)


def empty_continuation_flood(port: int) -> None:
    with acknowledged(port) as connection:
        connection.send(http2.header_frames(1, CALL, is_complete=False))
        flood(connection, frame(http2.CONTINUATION, 0, 1) * 1000, 200)


def empty_data_flood(port: int) -> None:
    with acknowledged(port) as connection:
        connection.send(http2.header_frames(1, CALL))
        flood(connection, frame(http2.DATA, 0, 1) * 1000, 200)


def _bomb(connection: Http2Connection) -> None:
    references = bytes([0x80 | http2.FIRST_DYNAMIC_INDEX]) * 4000
    connection.send(http2.header_frames(1, CALL + http2.indexed_header("x", "y" * 3900)))
    for stream in range(3, 803, 2):
        if not flood(connection, http2.header_frames(stream, CALL + references), 1):
            return


def header_bomb(port: int) -> None:
    """400 calls, each with 4,000 references to a header of 3,900 bytes: 1.6 MB that would be 6 GB decoded."""
    with acknowledged(port) as connection:
        _bomb(connection)


def header_bomb_before_settings(port: int) -> None:
    """The same from a client that has not acknowledged the bound of headers."""
    with http2_connection(port, timeout=SEND_TIMEOUT) as connection:
        _bomb(connection)


def random_bytes(port: int) -> None:
    """What is not HTTP/2, or only at first."""
    random = np.random.default_rng(28)
    for number in range(200):
        first = (b"", http2.PREFACE, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", http2.PREFACE[:12])[number % 4]
        with http2_connection(port, first + random.bytes(2000)) as connection:
            connection.discard()


def connect_and_close(port: int) -> None:
    for _ in range(5000):
        socket.create_connection(("127.0.0.1", port)).close()


@pytest.mark.parametrize(
    "attack",
    [
        rapid_reset,
        ping_flood,
        settings_flood,
        continuation_flood,
        empty_continuation_flood,
        empty_data_flood,
        header_bomb,
        header_bomb_before_settings,
        random_bytes,
        connect_and_close,
    ],
)
async def test_an_attackers_neighbours_lose_no_call(attack: Attack, feed, options, seen):
    async with attacked(feed, options, files=4096) as server:
        await server.ledger.more(200)
        quiet = np.quantile(server.ledger.seconds[-200:], 0.99)
        begun = len(server.ledger.seconds)
        await asyncio.to_thread(attack, server.grpc_port)
        await server.ledger.more(50)
        during = np.quantile(server.ledger.seconds[begun:], 0.99)
        assert await server.probe() == 200
    assert server.ledger.problems() == []
    seen.note(f"{attack.__name__}: p99 {1000 * quiet:.0f} ms before, {1000 * during:.0f} ms meanwhile")


@pytest.mark.parametrize("files", [FEW_FILES, 16_384])
@pytest.mark.parametrize("first", [b"", http2.PREFACE + frame(http2.SETTINGS, 0, 0)], ids=["silent", "idle"])
async def test_idle_connections_keep_out_neither_probes_nor_open_connections(
    first: bytes, files: int, feed, options, seen
):
    count = 4 * FEW_FILES if files == FEW_FILES else 10_000
    async with attacked(feed, options, files) as server:
        with ExitStack() as stack:

            def connect() -> None:
                for _ in range(count):
                    stack.enter_context(http2_connection(server.grpc_port, first))

            await asyncio.to_thread(connect)
            assert await server.probe() == 200
            await server.ledger.more(100)
    assert server.ledger.problems() == []
    slowest = 1000 * max(server.ledger.seconds)
    seen.note(f"{count:,} connections, {files:,} files: no call lost, the slowest took {slowest:.0f} ms")
