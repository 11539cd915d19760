"""Two servers are restarted one after the other under load, and every call has its answer."""

import asyncio
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from animora_client import AsyncRankingClient, RankingClient, RankingError
from animora_client.ranking import Ranking
from tests.integration.nginx import nginx
from tests.limits import HANG_TIMEOUT

ROUNDS = 2
CALLERS = 8  # of each kind
POSTS = (3, 1, 2)


class Server:
    """A server process that comes back at the same port, which the test holds."""

    def __init__(self) -> None:
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port: int = self._held.getsockname()[1]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns once it serves."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.integration.echo_server", str(self.port)),
            cwd=Path(__file__).parents[2],
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"serving\n"

    async def restart(self) -> None:
        """Stops it as an operator does, and starts it again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert await self._process.wait() == 0
        await self.start()

    async def aclose(self) -> None:
        """Ends it."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._held.close()


class Ledger:
    """What became of the calls, those of threads and those of tasks."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.over = threading.Event()
        self._lock = threading.Lock()

    def enter(self, client: str, outcome: Ranking | RankingError) -> None:
        """Notes the outcome of a call."""
        text = str(outcome) if isinstance(outcome, RankingError) else f"posts {outcome.post_ids}"
        with self._lock:
            self.sent[client] += 1
            self.outcomes[client, text] += 1

    async def more(self, count: int) -> None:
        """Waits until each client has so many further outcomes."""
        target = {client: self.sent[client] + count for client in ("async", "sync")}
        while any(self.sent[client] < reached for client, reached in target.items()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def load(target: str) -> AsyncIterator[Ledger]:
    """Calls from tasks and from threads within the block; all have an outcome after it."""
    ledger = Ledger()

    async def ask(client: AsyncRankingClient) -> None:
        while not ledger.over.is_set():
            try:
                ledger.enter("async", await client.rank(7, POSTS))
            except RankingError as error:
                ledger.enter("async", error)

    def ask_in_a_thread(client: RankingClient) -> None:
        while not ledger.over.is_set():
            try:
                ledger.enter("sync", client.rank(7, POSTS))
            except RankingError as error:
                ledger.enter("sync", error)

    with RankingClient(target, timeout=HANG_TIMEOUT) as client:
        async with (
            AsyncRankingClient(target, timeout=HANG_TIMEOUT) as async_client,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(CALLERS):
                tasks.create_task(ask(async_client))
                tasks.create_task(asyncio.to_thread(ask_in_a_thread, client))
            try:
                yield ledger
            finally:
                ledger.over.set()


@pytest.mark.parametrize("way", ["directly", "through nginx"])
async def test_rolling_restarts_of_two_servers_lose_no_call(way, tmp_path_factory):
    async with AsyncExitStack() as stack:
        servers = [Server(), Server()]
        for server in servers:
            stack.push_async_callback(server.aclose)
        ports = [server.port for server in servers]
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        if way == "through nginx":
            target = await stack.enter_async_context(nginx(tmp_path_factory.mktemp("nginx"), ports))
        await asyncio.gather(*(server.start() for server in servers))
        async with load(target) as ledger:
            for server in servers * ROUNDS:
                await ledger.more(50)
                await server.restart()
            await ledger.more(50)
    assert set(ledger.outcomes) == {("async", f"posts {POSTS}"), ("sync", f"posts {POSTS}")}
