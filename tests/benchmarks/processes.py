"""Servers of a benchmark: started as processes, measured by the CPU time that the kernel counts for them."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from animora_client import AsyncRankingClient, Health

READY_WITHIN = 300.0  # seconds
CORES = os.cpu_count() or 1
# A server that is to be measured has a core of its own, and its load the others, where there are several.
SERVER_CORE = "0"
ALL_CORES = f"0-{CORES - 1}"
LOAD_CORES = f"1-{CORES - 1}" if CORES > 1 else "0"
TICKS = os.sysconf("SC_CLK_TCK")  # a second


@dataclass(frozen=True, slots=True)
class Server:
    """A process, or one with workers, that listens on a port of this machine, and on another for metrics.

    Attributes:
        idles: Whether it takes no CPU time worth mentioning while nobody asks.
    """

    name: str
    pid: int
    port: int
    http_port: int | None = None
    idles: bool = False

    @property
    def target(self) -> str:
        """The address."""
        return f"127.0.0.1:{self.port}"

    def is_alive(self) -> bool:
        """Whether the process has not ended (Linux)."""
        return Path(f"/proc/{self.pid}").exists()

    def cpu_seconds(self) -> float:
        """User and system time so far of all threads, of it and of all its descendants (Linux)."""
        return sum(map(_ticks, family(self.pid))) / TICKS

    def anonymous_bytes(self) -> int:
        """Memory that is its own and no file's (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def family(pid: int) -> list[int]:
    """A process that is alive and its descendants, parents first (Linux)."""
    children = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            children += thread.read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def _ticks(pid: int) -> int:
    """CPU time of a process, and of those of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended itself, and its parent's time has it
        return 0
    return sum(map(int, fields[11:15]))


@asynccontextmanager
async def animora_server(
    options: Mapping[str, str], *, pinned: bool = False, workers: int = 1
) -> AsyncIterator[Server]:
    """The real server on a free port, with ANIMORA_ options, once it is SERVING.

    Args:
        options: By name without the prefix.
        pinned: To SERVER_CORE.
        workers: How many processes; all listen.

    Raises:
        RuntimeError: It ended before.
        TimeoutError: It is not SERVING within READY_WITHIN.
    """
    free_ports = {"GRPC_PORT": "0", "HTTP_PORT": "0"}
    environment = {f"ANIMORA_{name}": value for name, value in {**free_ports, **options}.items()}
    process = await asyncio.create_subprocess_exec(
        *(*_pinning(pinned), sys.executable, "-m", "animora_server", "serve", "--workers", str(workers)),
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    listening: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    log = asyncio.create_task(_take_in(process.stderr, workers, listening))
    try:
        event = await listening
        server = Server("animora", process.pid, event["grpc_port"], event.get("http_port"))
        await _serving(server)
        yield server
    finally:
        await _stop(process)
        await log


@asynccontextmanager
async def bare_server(*, pinned: bool = False) -> AsyncIterator[Server]:
    """The bare handler on a free port."""
    process = await asyncio.create_subprocess_exec(
        *(*_pinning(pinned), sys.executable, "-m", "tests.benchmarks.bare_handler"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield Server("bare grpc.aio handler", process.pid, int(await process.stdout.readline()))
    finally:
        await _stop(process)


def _pinning(pinned: bool) -> tuple[str, ...]:
    return ("taskset", "-c", SERVER_CORE) if pinned else ()


async def _take_in(
    log: asyncio.StreamReader, workers: int, listening: "asyncio.Future[dict[str, Any]]"
) -> None:
    """Reads a server's log to its end, as it would stand still otherwise; tells when all workers listen."""
    left = workers
    async for line in log:
        left -= b'"listening"' in line
        if not (left or listening.done()):
            listening.set_result(json.loads(line))
    if not listening.done():
        listening.set_exception(RuntimeError("the server ended before it listened"))


async def _serving(server: Server) -> None:
    async with asyncio.timeout(READY_WITHIN), AsyncRankingClient(server.target, timeout=10) as client:
        while await client.health() is not Health.SERVING:  # noqa: ASYNC110  # a server tells nobody
            await asyncio.sleep(0.1)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.wait()
