"""PostgreSQL under faults: the catalog keeps serving, its age shows, and it is current soon after."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from animora_server.app import Application, running
from tests.integration.serving import connected, settings_for
from tests.support.artifacts import tiny_artifact
from tests.support.fault_proxy import before_postgres, black_hole, delay, half_close, reset, truncate
from tests.support.feed import fill
from tests.support.ledger import Ledger
from tests.support.pages import metric
from tests.support.pgbouncer import BINARY, pgbouncer
from tests.support.until import HANG_TIMEOUT, until

pytestmark = [pytest.mark.failure(24), pytest.mark.usefixtures("store")]

NETWORKS = {"v1": tiny_artifact("v1", seed=1)[1]}
AGE = "animora_blocks_age_seconds"
OLD = 1.0  # seconds: an age of blocks that are not current
CURRENT_WITHIN = 5.0  # seconds
CLOSED_WITHIN = 5.0  # seconds
CATALOG = {"poll_interval": 0.05}
DATABASE = {"timeout": 1.0}


@dataclass
class Server:
    """A server under load."""

    application: Application
    ledger: Ledger

    async def until_old(self) -> None:
        """Waits until the age of the blocks shows that PostgreSQL is away."""
        while await metric(self.application, AGE) < OLD:
            await self.ledger.more(20)

    async def seconds_until_current(self) -> float:
        """Waits until the blocks are current, and returns how long that took."""
        began = time.monotonic()
        while await metric(self.application, AGE) >= OLD:
            await self.ledger.more(5)
        return time.monotonic() - began


@asynccontextmanager
async def ranking(feed, url: str, redis_url: str, tmp_path) -> AsyncIterator[Server]:
    """A server over a database, under load."""
    settings = settings_for(url, redis_url, tmp_path / "models", catalog=CATALOG, database=DATABASE)
    ledger = Ledger(feed, NETWORKS)
    async with running(settings) as application, asyncio.timeout(HANG_TIMEOUT):
        await application.listen()
        async with connected(application) as stub, ledger.load(stub, workers=4):
            yield Server(application, ledger)


@pytest.mark.parametrize(
    "fault",
    [delay(2.0), black_hole, reset, truncate, half_close],
    ids=["delayed", "a black hole", "reset", "truncated", "half-closed"],
)
async def test_no_call_fails_while_the_connections_to_postgres_are(fault, feed, redis_url, tmp_path, seen):
    async with (
        before_postgres(feed.url) as (proxy, url),
        ranking(feed, url, redis_url, tmp_path) as server,
    ):
        proxy.fault = fault
        await server.until_old()
        proxy.fault = None
        seconds = await server.seconds_until_current()
    assert server.ledger.problems() == []
    seen.number("current after damaged connections", seconds, at_most=CURRENT_WITHIN, unit="s")


@pytest.mark.parametrize("kind", ["killed", "frozen"])
async def test_the_catalog_is_current_soon_after_postgres_was(
    *, kind, store, redis_url, embedded_postgres, tmp_path, frozen, seen
):
    postgres = await embedded_postgres()
    feed = await fill(postgres.url)
    async with ranking(feed, postgres.url, redis_url, tmp_path) as server:
        if kind == "frozen":
            with frozen(postgres.pid):
                await server.until_old()
        else:
            await postgres.kill()
            await server.until_old()
            await postgres.start()
        seconds = await server.seconds_until_current()
    assert server.ledger.problems() == []
    seen.number(f"current after it was {kind}", seconds, at_most=CURRENT_WITHIN, unit="s")


@pytest.mark.skipif(BINARY is None, reason="PgBouncer is not installed")
async def test_no_call_fails_while_pgbouncer_is_restarted(feed, redis_url, server_directory, tmp_path, seen):
    directory = server_directory / "restarted-pgbouncer"
    directory.mkdir()
    directory.chmod(0o711)
    async with AsyncExitStack() as stack:
        pooler = await stack.enter_async_context(pgbouncer(directory, feed.url, "transaction", 4))
        async with ranking(feed, pooler.url(feed.url), redis_url, tmp_path) as server:
            await stack.aclose()
            await server.until_old()
            async with pgbouncer(directory, feed.url, "transaction", 4):
                seconds = await server.seconds_until_current()
    assert server.ledger.problems() == []
    seen.number("current after a restart of PgBouncer", seconds, at_most=CURRENT_WITHIN, unit="s")


async def test_a_server_closes_while_postgres_is_frozen(embedded_postgres, redis_url, tmp_path, frozen, seen):
    postgres = await embedded_postgres()
    await fill(postgres.url)
    settings = settings_for(postgres.url, redis_url, tmp_path / "models", catalog=CATALOG, database=DATABASE)
    async with AsyncExitStack() as stack, asyncio.timeout(HANG_TIMEOUT):
        application = await stack.enter_async_context(running(settings))
        await application.listen()
        with frozen(postgres.pid):
            await until(lambda: age_is_old(application))
            began = time.monotonic()
            await application.drain()
            await stack.aclose()
    seen.number("closed", time.monotonic() - began, at_most=CLOSED_WITHIN, unit="s")


async def age_is_old(application: Application) -> bool:
    return await metric(application, AGE) >= OLD
