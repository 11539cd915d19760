"""A server whose log is not read, as with a stuck log collector."""

import asyncio
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.processes import animora_environment
from tests.support.until import HANG_TIMEOUT

CALLS = 1200
PIPE_BYTES = 4096  # a few lines fill it


class Unread:
    """A server as a process; the pipe of its log is read only after its end."""

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
        """The log lines that fitted into the pipe; call it after the server's end."""
        with open(self._reader, "rb", closefd=False) as lines:
            return [json.loads(line) for line in lines]


@asynccontextmanager
async def unread(*arguments: str, pipe_bytes: int = PIPE_BYTES, **options: str) -> AsyncIterator[Unread]:
    """Starts `serve`; it is killed at the end if it still runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"SCORER_DEVICE": "cpu", "GRPC_DRAIN_DELAY": "0", "HTTP_PORT": "0"} | options
    options |= {"GRPC_PORT": str(port)}
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, pipe_bytes)
    process = subprocess.Popen(  # noqa: ASYNC220  # it begins in no time
        [sys.executable, "-m", "animora_server", "serve", *arguments],
        env=animora_environment(**options),
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
    """The health status of a service, once the server answers."""
    request = health_pb2.HealthCheckRequest(service=name)
    health: Any = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(request, timeout=HANG_TIMEOUT, wait_for_ready=True)
    return int(answer.status)


async def send_compressed(channel: grpc.aio.Channel) -> None:
    """Makes calls with a compressed request, which gRPC's core refuses and logs."""
    call: Any = channel.unary_unary("/animora.ranking.v1.RankingService/Rank")
    for _ in range(CALLS):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"x" * 2000, timeout=HANG_TIMEOUT, compression=grpc.Compression.Gzip)
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
