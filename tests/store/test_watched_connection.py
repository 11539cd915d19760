"""Connections that do not answer any more, and those on which PostgreSQL works."""

import asyncio

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from animora_server.errors import StoreError
from animora_server.settings import DatabaseSettings
from animora_server.store import PostgresStore
from animora_server.store.connection import Connector
from animora_server.store.watched_connection import SILENCE_TIMEOUT, WatchedConnection
from tests.support.fault_proxy import before_postgres
from tests.support.until import HANG_TIMEOUT

# A silent connection is detected long before a query times out.
COMMAND_TIMEOUT = 2 * HANG_TIMEOUT


@pytest.fixture
async def proxied(postgres_url):
    async with before_postgres(postgres_url) as proxied:
        yield proxied


@pytest.fixture
def proxy(proxied):
    return proxied[0]


@pytest.fixture
def url(proxied):
    return proxied[1]


async def watched(url, **options):
    """A watched connection."""
    settings = DatabaseSettings(url=SecretStr(url), **options)
    connector = Connector("database.url", settings.url, settings)
    connection = await connector.connect(connection_class=WatchedConnection)
    connection.watch(connector)
    return connection


async def read(store):
    async with store.reading() as reading:
        return await reading.blocks()


@pytest.mark.failure(24)
async def test_a_dead_connection_is_replaced(database, proxy, url):
    store = PostgresStore(DatabaseSettings(url=SecretStr(url), command_timeout=COMMAND_TIMEOUT))
    await read(store)
    proxy.fall_silent()
    with capture_logs() as logs:
        async with asyncio.timeout(HANG_TIMEOUT):
            with pytest.raises(StoreError):
                await read(store)
            await read(store)
    store.close()

    assert [entry["event"] for entry in logs] == ["connection to PostgreSQL is dead; replacing it"]


@pytest.mark.failure(24)
async def test_a_connection_that_dies_within_a_reading_is_replaced(database, proxy, url):
    async def fall_silent_within(store):
        async with store.reading() as reading:
            await reading.blocks()
            proxy.fall_silent()
            await reading.posts()

    store = PostgresStore(DatabaseSettings(url=SecretStr(url), command_timeout=COMMAND_TIMEOUT))
    async with asyncio.timeout(HANG_TIMEOUT):
        with pytest.raises(StoreError):
            await fall_silent_within(store)
        await read(store)
    store.close()


async def test_a_slow_query_is_not_terminated(database, proxy, url):
    connection = await watched(url, command_timeout=COMMAND_TIMEOUT)
    connection.set_server_pid(await connection.fetchval("select pg_backend_pid()"))
    before = proxy.connections

    await connection.execute(f"select pg_sleep({SILENCE_TIMEOUT * 2.5})")

    assert proxy.connections > before  # a probe has connected
    assert not connection.is_closed()
    connection.terminate()


async def test_a_connection_is_kept_while_the_server_answers_no_probe(embedded_postgres, frozen):
    postgres = await embedded_postgres()
    connection = await watched(postgres.url, timeout=0.2)
    with frozen(postgres.pid):
        answer = asyncio.create_task(connection.execute("select 1"))
        done, _ = await asyncio.wait((answer,), timeout=SILENCE_TIMEOUT * 2)
        assert not done
    async with asyncio.timeout(HANG_TIMEOUT):
        assert await answer == "SELECT 1"
    connection.terminate()


async def test_a_slow_reader_does_not_count_as_silence(database, proxy, url):
    """Meanwhile PostgreSQL waits for its client, as it would for one that is gone."""
    connection = await watched(url, command_timeout=COMMAND_TIMEOUT)
    slow = [SILENCE_TIMEOUT * 1.5]
    received = []

    async def receive(data):
        received.append(len(data))
        if slow:
            await asyncio.sleep(slow.pop())

    await connection.copy_from_query(
        "select repeat('x', 1000) from generate_series(1, 100000)", output=receive, timeout=HANG_TIMEOUT
    )

    assert sum(received) > 100_000_000
    connection.terminate()


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), ValueError("a bug of the reader")]
)
async def test_an_error_of_the_reader_of_a_copy_is_no_error_of_postgresql(database, proxy, url, failure):
    connection = await watched(url)

    async def output(data: bytes) -> None:
        raise failure

    with pytest.raises(type(failure)) as raised:
        await connection.copy_from_query("SELECT 1", output=output, timeout=HANG_TIMEOUT, format="binary")
    assert raised.value is failure
    connection.terminate()
