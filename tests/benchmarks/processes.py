"""Servers of a benchmark: processes, and their CPU time as the kernel counts it."""

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
# A pinned server has one core, and its load the others if there are any.
SERVER_CORE = "0"
ALL_CORES = f"0-{CORES - 1}"
LOAD_CORES = f"1-{CORES - 1}" if CORES > 1 else "0"
TICKS = os.sysconf("SC_CLK_TCK")  # a second


@dataclass(frozen=True, slots=True)
class Server:
    """A server process, possibly with workers, on a port of this machine.

    Attributes:
        idles: Whether it takes next to no CPU time without calls.
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

    def pin(self) -> None:
        """Lets the process run on SERVER_CORE alone (Linux)."""
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {int(SERVER_CORE)})

    def cpu_seconds(self) -> float:
        """User and system time of the process and all its descendants (Linux)."""
        return sum(map(_ticks, process_tree(self.pid))) / TICKS

    def anonymous_bytes(self) -> int:
        """Anonymous resident memory (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def process_tree(pid: int) -> list[int]:
    """A live process and its descendants, parents first (Linux)."""
    children = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            children += thread.read_text().split()
    return [pid, *(one for child in children for one in process_tree(int(child)))]


def _ticks(pid: int) -> int:
    """CPU time of a process and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # the process has ended; its parent counts it
        return 0
    return sum(map(int, fields[11:15]))


@asynccontextmanager
async def animora_server(
    options: Mapping[str, str], *, pinned: bool = False, workers: int = 1, module: str = "animora_server"
) -> AsyncIterator[Server]:
    """Starts the real server on a free port; yields once it is SERVING.

    Args:
        options: Values by name without the prefix ANIMORA_.
        pinned: Whether it runs on SERVER_CORE alone.
        workers: Number of processes; all listen.
        module: What is run, with the arguments of `animora-server`.

    Raises:
        RuntimeError: The server ended before.
        TimeoutError: It is not SERVING within READY_WITHIN.
    """
    free_ports = {"GRPC_PORT": "0", "HTTP_PORT": "0"}
    environment = {f"ANIMORA_{name}": value for name, value in {**free_ports, **options}.items()}
    process = await asyncio.create_subprocess_exec(
        *(*_pinning(pinned), sys.executable, "-m", module, "serve", "--workers", str(workers)),
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    listening: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    log = asyncio.create_task(_read_log(process.stderr, workers, listening))
    try:
        event = await listening
        server = Server("animora", process.pid, event["grpc_port"], event.get("http_port"))
        await _wait_until_serving(server)
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


async def _read_log(
    log: asyncio.StreamReader, workers: int, listening: "asyncio.Future[dict[str, Any]]"
) -> None:
    """Reads a server's log to its end, so that the server never blocks; resolves when all workers listen."""
    left = workers
    async for line in log:
        left -= b'"listening"' in line
        if not (left or listening.done()):
            listening.set_result(json.loads(line))
    if not listening.done():
        listening.set_exception(RuntimeError("the server ended before it listened"))


async def _wait_until_serving(server: Server) -> None:
    async with asyncio.timeout(READY_WITHIN), AsyncRankingClient(server.target, timeout=10) as client:
        while await client.health() is not Health.SERVING:  # noqa: ASYNC110  # a server does not notify
            await asyncio.sleep(0.1)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.wait()
