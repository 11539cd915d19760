"""Rolling restarts of two servers under load lose no call."""

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from urllib.error import HTTPError

import pytest

from animora_client import AsyncRankingClient, Ranker, RankingClient, RankingError
from animora_client.ranking import Ranking
from animora_proto.ranking.v1 import ranking_pb2 as pb
from tests.integration.proxies import envoy, nginx
from tests.integration.serving import serving, with_options
from tests.support.feed import TRAINED_USERS
from tests.support.pages import get
from tests.support.processes import start, unused_port
from tests.support.until import HANG_TIMEOUT

CALLERS = 8  # of each kind
PAUSE = 0.01  # seconds between a caller's calls, in which a server that starts has the processor
POSTS = (100, 200, 300)
WAYS = {  # the workers of each server, and the proxy before both
    "directly": (1, None),
    "directly, with two workers": (2, None),
    "through nginx": (1, nginx),
    "through nginx, with two workers": (2, nginx),
    "through Envoy": (1, envoy),
}


class Server:
    """A server process that keeps its ports over restarts."""

    def __init__(self, log: Path, **options: str) -> None:
        self.port = unused_port()
        self._http_port = unused_port()
        self._options = options | {"GRPC_PORT": str(self.port), "HTTP_PORT": str(self._http_port)}
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts the process; returns once /readyz succeeds."""
        with self._log.open("a") as log:
            self._process = await start("serve", stderr=log, **self._options)
        while True:
            try:
                await asyncio.to_thread(get, self._http_port, "/readyz")
            except OSError:  # not there yet, or 503
                assert self._process.returncode is None, self._log.read_text()
                await asyncio.sleep(0.05)
            else:
                return

    async def restart(self) -> None:
        """Drains the server by SIGTERM and starts it again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert await self._process.wait() == 0, self._log.read_text()
        await self.start()

    async def aclose(self) -> None:
        """Ends it."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()


class Ledger:
    """The outcomes of calls from threads and from tasks."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.over = threading.Event()
        self._lock = threading.Lock()

    def record(self, client: str, outcome: Ranking | RankingError) -> None:
        """Counts the outcome of a call."""
        if isinstance(outcome, RankingError):
            text = str(outcome)
        else:
            text = f"{outcome.ranker} {sorted(outcome.post_ids)}"
        with self._lock:
            self.sent[client] += 1
            self.outcomes[text] += 1

    async def more(self, count: int) -> None:
        """Waits for `count` further outcomes of each client."""
        target = {client: self.sent[client] + count for client in ("async", "sync")}
        while any(self.sent[client] < reached for client, reached in target.items()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def load(target: str) -> AsyncIterator[Ledger]:
    """Calls from tasks and from threads within the block; all have an outcome after it."""
    ledger = Ledger()

    async def call(client: AsyncRankingClient) -> None:
        while not ledger.over.is_set():
            try:
                ledger.record("async", await client.rank(TRAINED_USERS[0], POSTS))
            except RankingError as error:
                ledger.record("async", error)
            await asyncio.sleep(PAUSE)

    def call_in_a_thread(client: RankingClient) -> None:
        while not ledger.over.is_set():
            try:
                ledger.record("sync", client.rank(TRAINED_USERS[0], POSTS))
            except RankingError as error:
                ledger.record("sync", error)
            ledger.over.wait(PAUSE)

    # Not the threads of asyncio.to_thread: these probe the servers.
    with (
        ThreadPoolExecutor(CALLERS) as threads,
        RankingClient(target, timeout=HANG_TIMEOUT) as client,
    ):
        async with (
            AsyncRankingClient(target, timeout=HANG_TIMEOUT) as async_client,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(CALLERS):
                tasks.create_task(call(async_client))
                threads.submit(call_in_a_thread, client)
            try:
                yield ledger
            finally:
                ledger.over.set()
                await asyncio.to_thread(threads.shutdown)


@pytest.mark.failure(26)
@pytest.mark.parametrize("way", WAYS)
async def test_rolling_restarts_of_two_servers_lose_no_call(
    way, feed, redis_url, store, tmp_path, tmp_path_factory
):
    workers, before = WAYS[way]
    options = {
        "DATABASE_URL": feed.url,
        "CACHE_URL": redis_url,
        "MODELS_STORE": str(tmp_path / "models"),
        "MODELS_READY_REQUIRES_MODEL": "true",
        "MODELS_PREFLIGHT": "false",
        "GRPC_WORKERS": str(workers),
        "SCORER_DEVICE": "cpu",
    }
    async with AsyncExitStack() as stack, asyncio.timeout(HANG_TIMEOUT):
        servers = [Server(tmp_path / f"server{number}.log", **options) for number in range(2)]
        for server in servers:
            stack.push_async_callback(server.aclose)
        ports = [server.port for server in servers]
        proxy = None
        if before:
            proxy = await stack.enter_async_context(before(tmp_path_factory.mktemp("proxy"), ports))
        target = proxy.target if proxy else "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        await asyncio.gather(*(server.start() for server in servers))
        async with load(target) as ledger:
            for server in servers:
                await ledger.more(100)
                await server.restart()
                if proxy:
                    await proxy.includes(server.port)
            await ledger.more(100)
    assert set(ledger.outcomes) == {f"{Ranker.NEUCF} {list(POSTS)}"}


async def test_readyz_leaves_clients_time_to_connect_before_the_next_server_is_restarted(settings):
    slow = with_options(settings, grpc={"ready_delay": 3600.0})
    async with serving(slow) as (application, stub):
        assert (await stub.Rank(pb.RankRequest(user_id=TRAINED_USERS[0], post_ids=POSTS))).post_ids
        with pytest.raises(HTTPError) as error:
            await asyncio.to_thread(get, application.probes.port, "/readyz")
        with closing(error.value) as response:
            assert (response.status, b"ready_delay" in response.read()) == (503, True)
